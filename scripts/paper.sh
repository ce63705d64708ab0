#!/usr/bin/env bash
# The paper's experiments end to end on one of its data sets: masks, scene graphs without and with memory, downstream tasks.
# Usage: [SMALL=1] bash scripts/paper.sh MMOR|4DOR|HybridOR [FOLDER]     (default: output/paper_DATASET)
#   DATA=data                    folder that holds MM-OR_data and/or 4D-OR_data
#   WEIGHTS=ctvis_r50_vspw.pth   what the frame segmenter starts from
#   GPUS=1                       processes of each training
#   SMALL=1                      the same path with small models on short simulated takes, on a CPU
# What is finished is kept: run it again after an interruption. On a cluster: sbatch scripts/slurm.sh MMOR
set=${1:?give MMOR, 4DOR or HybridOR}
case $set in
MMOR) folder=/MM-OR_data ;;
4DOR) folder=/4D-OR_data ;;
HybridOR) folder="" ;;
*) echo "error: there is no data set $set; give MMOR, 4DOR or HybridOR" >&2 && exit 2 ;;
esac
source "$(dirname "$0")/environment.sh"
work=$(realpath -m "${2:-output/paper_$set}")
data=$(realpath -m "${DATA:-data}") gpus=${GPUS:-1}
mkdir -p "$work/.done"

# step NAME COMMAND...: run a command that has not succeeded yet.
step() {
    [ -e "$work/.done/$1" ] && return
    echo "== ${*:2}"
    "${@:2}"
    touch "$work/.done/$1"
}

if [ -n "${SMALL:-}" ]; then
    export OMP_NUM_THREADS=1
    data=$work/data
    mmor data synthesize --out "$data" --seconds 40 --size 160x120 \
        --take 001_PKA --take 003_TKA --take 004_PKA --take 001_4DOR --take 002_4DOR
    short=(SOLVER.MAX_ITER 160 SOLVER.CHECKPOINT_PERIOD 80 INPUT.MIN_SIZE_TRAIN "[96]" INPUT.MIN_SIZE_TEST 96)
    ctvis=(--config-file configs/panoptic/small.yaml "${short[@]}")
    online=(--config-file configs/panoptic/small_online.yaml "${short[@]}")
    offline=(--config-file configs/panoptic/small_offline.yaml "${short[@]}")
    first="" canvas=320x240 encoder=mel permutations=1 tokenizer=()
    sed 's/steps: 2000/steps: 120/' configs/scene_graph/small.yaml >"$work/small.yaml"
    base=(--config "$work/small.yaml" --max_steps 200 --save_steps 100)
    temporal=("${base[@]}")
    downstream=(--config configs/scene_graph/small_downstream.yaml --max_steps 300)
    per_timepoint=2
else
    ctvis=(--config-file "configs/panoptic/$set/CTVIS_r50.yaml")
    online=(--config-file "configs/panoptic/$set/DVIS_Plus_Online_R50.yaml")
    offline=(--config-file "configs/panoptic/$set/DVIS_Plus_Offline_R50.yaml")
    first=$(realpath "${WEIGHTS:-ctvis_r50_vspw.pth}") canvas=2048x1536 encoder=clap permutations=20
    tokenizer=(--tokenizer liuhaotian/llava-v1.5-7b)
    frequencies=(--token_weight_path "$work/samples/train_token_freqs_7b_20perm.json")
    base=(--config configs/scene_graph/base.yaml --gpus "$gpus" "${frequencies[@]}")
    temporal=(--config configs/scene_graph/temporal.yaml --gpus "$gpus" "${frequencies[@]}")
    downstream=(--config configs/scene_graph/downstream.yaml --gpus "$gpus")
    per_timepoint=10
fi
step relations mmor data convert-relations "$data" --out "$work"
data=$data$folder
annotated=(--data "$data" --relations "$work")

# Stage 1: the frame segmenter, then the tracker on it, then the refiner on both; scores of each.
previous=$first
for model in ctvis online offline; do
    declare -n settings=$model
    step train_$model mmor panoptic train --num-gpus "$gpus" --data "$data" --out "$work/$model" --ground-truth "$work/ground_truth" \
        --resume "${settings[@]}" ${previous:+MODEL.WEIGHTS "$previous"}
    step predict_$model mmor panoptic predict --model "$work/$model" --data "$data" --take test --out "$work/$model"
    step evaluate_$model mmor panoptic evaluate --data "$data" --take test --out "$work/$model" --canvas $canvas
    previous=$work/$model/model.safetensors
done
step masks mmor panoptic export-masks --model "$work/ctvis" --data "$data" --out "$work/masks"

# Stage 2: what each second holds, training samples, base training, temporal curriculum; scores of both.
step preprocess mmor scene-graph preprocess all --data "$data" --predictions "$work/masks/inference/pan_pred" --audio-encoder $encoder
samples=(mmor scene-graph samples "${annotated[@]}" --out "$work/samples" --permutations $permutations --mixed-modalities)
step base_samples "${samples[@]}" "${tokenizer[@]}"
step temporal_samples "${samples[@]}" --temporal
train=(mmor scene-graph train --data "$data")
step base "${train[@]}" "${base[@]}" --samples "$work"/samples/train_*_Falsetemp_*.json --out "$work/base"
step temporal "${train[@]}" "${temporal[@]}" --samples "$work"/samples/train_*_Truetemp_*.json --out "$work/temporal" \
    --curriculum_learning_weights "$work/base"
evaluate=(mmor scene-graph evaluate "${annotated[@]}")
step without_memory "${evaluate[@]}" --config mmor --model_path "$work/base" --out "$work/without_memory.json"
step with_memory "${evaluate[@]}" --config mmor_temporal_pred --model_path "$work/temporal" --out "$work/with_memory.json"
mmor compare "$work/without_memory.json" "$work/with_memory.json"

# Downstream tasks, which 4D-OR has no labels for; from true graphs and from those just predicted.
[ "$set" = 4DOR ] && exit
for split in train test; do
    step labels_$split mmor downstream labels "${annotated[@]}" --split $split --out "$work/labels"
done
step downstream_samples mmor downstream samples "${annotated[@]}" --labels "$work/labels" --per-timepoint $per_timepoint \
    --out "$work/samples"
step downstream mmor downstream train "${downstream[@]}" --samples "$work"/samples/downstream_*.json --data "$data" \
    --out "$work/downstream"
evaluate=(mmor downstream evaluate "${annotated[@]}" --labels "$work/labels" --model-path "$work/downstream")
step downstream_true "${evaluate[@]}" --out "$work/downstream_true.json"
step downstream_predicted "${evaluate[@]}" --graphs "$work/with_memory.json" --out "$work/downstream_predicted.json"
mmor compare "$work/downstream_true.json" "$work/downstream_predicted.json"
