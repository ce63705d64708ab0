#!/usr/bin/env bash
# The paper's experiments end to end on one of its data sets: masks, scene graphs without and with memory, downstream tasks.
# Usage: [SMALL=1] [PLAN=1] bash scripts/paper.sh MMOR|4DOR|HybridOR [FOLDER]     (default: output/paper_DATASET)
#   DATA=data                    folder that holds MM-OR_data and/or 4D-OR_data
#   WEIGHTS=mask2former/ctvis_r50_vspw.pth   what the frame segmenter starts from (mmor checkpoints download segmenter-initial)
#   GPUS=1                       processes of each step; the batch of each GPU stays as published (docs/training.md)
#   SMALL=1                      the same path with small models on short simulated takes, on a CPU
#   PLAN=1                       only say what each step does and needs, and what is missing; takes seconds
# It begins with the plan and stops if something is missing. What is finished is kept: run it again after an interruption.
# On a cluster: sbatch scripts/slurm.sh MMOR
set=${1:?give MMOR, 4DOR or HybridOR}
case $set in
MMOR) folder=/MM-OR_data ;;
4DOR) folder=/4D-OR_data ;;
HybridOR) folder="" ;;
*) echo "error: there is no data set $set; give MMOR, 4DOR or HybridOR" >&2 && exit 2 ;;
esac
source "$(dirname "$0")/environment.sh"
work=$(realpath -m "${2:-output/paper_$set}")
gpus=${GPUS:-1}
if [ -n "${SMALL:-}" ]; then
    export OMP_NUM_THREADS=1
    all=$work/data
    short=(SOLVER.MAX_ITER 160 SOLVER.CHECKPOINT_PERIOD 80 INPUT.MIN_SIZE_TRAIN "[96]" INPUT.MIN_SIZE_TEST 96)
    ctvis=(--config-file configs/panoptic/small.yaml "${short[@]}")
    online=(--config-file configs/panoptic/small_online.yaml "${short[@]}")
    offline=(--config-file configs/panoptic/small_offline.yaml "${short[@]}")
    first="" canvas=320x240 encoder=mel permutations=1 per_timepoint=2 tokenizer=()
    base=(--config configs/scene_graph/small.yaml --pretrain_steps 120 --max_steps 200 --save_steps 100)
    temporal=("${base[@]}")
    downstream=(--config configs/scene_graph/small_downstream.yaml --max_steps 300)
else
    all=$(realpath -m "${DATA:-data}")
    batch=(SOLVER.IMS_PER_BATCH "$gpus") # of all processes: 1 for each GPU
    ctvis=(--config-file "configs/panoptic/$set/CTVIS_r50.yaml" "${batch[@]}")
    online=(--config-file "configs/panoptic/$set/DVIS_Plus_Online_R50.yaml" "${batch[@]}")
    offline=(--config-file "configs/panoptic/$set/DVIS_Plus_Offline_R50.yaml" "${batch[@]}")
    first=$(realpath -m "${WEIGHTS:-mask2former/ctvis_r50_vspw.pth}")
    canvas=2048x1536 encoder=clap permutations=20 per_timepoint=10 tokenizer=(--tokenizer liuhaotian/llava-v1.5-7b)
    frequencies=(--token_weight_path "$work/samples/train_token_freqs_7b_20perm.json")
    base=(--config configs/scene_graph/base.yaml --gpus "$gpus" "${frequencies[@]}")
    temporal=(--config configs/scene_graph/temporal.yaml --gpus "$gpus" "${frequencies[@]}")
    downstream=(--config configs/scene_graph/downstream.yaml --gpus "$gpus")
fi
data=$all$folder
# Training files have names that say how they were made.
modalities=AZURE_SIMSTATION_TRACKERCAM_PC_AUDIO_SPEECH_ROBOTMETA_TRACKINGMETA_PREDSEGMASKS
training_file() { echo "$work/samples/train_${permutations}perm_${1}temp_Truetempaug_${modalities}_drophistory0.5_MIXED.json"; }

# Every step in its order, as calls of `step NAME COMMAND...`.
recipe() {
    if [ -n "${SMALL:-}" ]; then
        step synthesize mmor data synthesize --out "$all" --seconds 40 --size 160x120 \
            --take 001_PKA --take 003_TKA --take 004_PKA --take 001_4DOR --take 002_4DOR
    fi
    step relations mmor data convert-relations "$data" --out "$work"
    local annotated=(--data "$data" --relations "$work") truth=(--ground-truth "$work/ground_truth")

    # Stage 1: the frame segmenter, then the tracker on it, then the refiner on both; scores of each.
    local previous=$first model
    for model in ctvis online offline; do
        local -n settings=$model
        step train_$model mmor panoptic train --num-gpus "$gpus" --data "$data" --out "$work/$model" "${truth[@]}" \
            --resume "${settings[@]}" ${previous:+MODEL.WEIGHTS "$previous"}
        step predict_$model mmor panoptic predict --num-gpus "$gpus" --model "$work/$model" --data "$data" --take test \
            --out "$work/$model"
        step evaluate_$model mmor panoptic evaluate --data "$data" --take test --out "$work/$model" "${truth[@]}" \
            --canvas $canvas
        previous=$work/$model/model.safetensors
    done
    step masks mmor panoptic export-masks --num-gpus "$gpus" --model "$work/ctvis" --data "$data" --out "$work/masks"

    # Stage 2: what each second holds, training samples, base training, temporal curriculum; scores of both.
    step preprocess mmor scene-graph preprocess all --gpus "$gpus" --data "$data" --predictions "$work/masks/inference/pan_pred" \
        --audio-encoder $encoder
    local samples=(mmor scene-graph samples "${annotated[@]}" --out "$work/samples" --permutations $permutations
        --mixed-modalities)
    step base_samples "${samples[@]}" "${tokenizer[@]}"
    step temporal_samples "${samples[@]}" --temporal
    step base mmor scene-graph train --data "$data" "${base[@]}" --samples "$(training_file False)" --out "$work/base"
    step temporal mmor scene-graph train --data "$data" "${temporal[@]}" --samples "$(training_file True)" \
        --out "$work/temporal" --curriculum_learning_weights "$work/base"
    local evaluate=(mmor scene-graph evaluate --gpus "$gpus" "${annotated[@]}")
    step without_memory "${evaluate[@]}" --config mmor --model_path "$work/base" --out "$work/without_memory.json"
    step with_memory "${evaluate[@]}" --config mmor_temporal_pred --model_path "$work/temporal" \
        --out "$work/with_memory.json"
    step memory_compared mmor compare "$work/without_memory.json" "$work/with_memory.json"

    # Downstream tasks, which 4D-OR has no labels for; from true graphs and from those just predicted.
    [ "$set" = 4DOR ] && return
    local split
    for split in train test; do
        step labels_$split mmor downstream labels "${annotated[@]}" --split $split --out "$work/labels"
    done
    step downstream_samples mmor downstream samples "${annotated[@]}" --labels "$work/labels" \
        --per-timepoint $per_timepoint --out "$work/samples"
    step downstream mmor downstream train "${downstream[@]}" --data "$data" --out "$work/downstream" \
        --samples "$work/samples/downstream_task_train_Truetempaug_drophistory0.5_correctedmemory.json"
    evaluate=(mmor downstream evaluate --gpus "$gpus" "${annotated[@]}" --labels "$work/labels"
        --model-path "$work/downstream")
    step downstream_true "${evaluate[@]}" --out "$work/downstream_true.json"
    step downstream_predicted "${evaluate[@]}" --graphs "$work/with_memory.json" --out "$work/downstream_predicted.json"
    step downstream_compared mmor compare "$work/downstream_true.json" "$work/downstream_predicted.json"
}

# What is done is kept, so a folder stays with what it was begun with.
begun="$set${SMALL:+ SMALL=1} DATA=$all WEIGHTS=$first"
if [ -e "$work/.begun" ] && [ "$(cat "$work/.begun")" != "$begun" ]; then
    echo "error: $work was begun with $(cat "$work/.begun"), not $begun; give another FOLDER (or, if files were only moved, remove $work/.begun)" >&2
    exit 2
fi
plan=$(mktemp)
trap 'rm -f "$plan"' EXIT
step() { printf '%q ' "$@" >>"$plan" && echo >>"$plan"; }
recipe
mmor plan "$plan" --out "$work" --done "$work/.done"
[ -z "${PLAN:-}" ] || exit 0

# step NAME COMMAND...: run a command that has not succeeded yet.
step() {
    [ ! -e "$work/.done/$1" ] || return 0
    echo "== ${*:2}"
    if ! "${@:2}"; then
        echo "error: step $1 has failed. If it says what it left out and the rest will do: touch $work/.done/$1" >&2
        exit 1
    fi
    touch "$work/.done/$1"
}
mkdir -p "$work/.done"
echo "$begun" >"$work/.begun"
recipe
