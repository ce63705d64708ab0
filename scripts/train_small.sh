#!/usr/bin/env bash
# Train two small models as those that come with the package, from nothing: simulate, train both stages, score on held-out takes.
# About 3 hours on 2 cores, 5.4 CPU hours (docs/results.md, "One script"). Usage: bash scripts/train_small.sh [FOLDER]   (default: output/small)
# What is finished is kept: after an interruption, run it again.
source "$(dirname "$0")/environment.sh"
export OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
# With the malloc of the C library a training becomes slower the longer it runs (docs/performance.md).
jemalloc=$(PATH=$PATH:/sbin ldconfig -p 2>/dev/null | sed -n 's/.*=> \(.*libjemalloc\.so\.2\)$/\1/p' | head -n 1) || true
[ -z "$jemalloc" ] || export LD_PRELOAD=$jemalloc
# What has the machine to itself: two processes, one for each core, or one on a GPU; in a training with as many samples in a step.
together=(--gpus 2)
batch=8
if command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1; then
    together=()
    batch=16
fi
work=${1:-output/small}
data=$work/data
mkdir -p "$work"
say() { # and how much CPU time what is finished took, of this run
    times >"$work/times.txt" # not through a pipe: that would ask of another shell
    local cpu
    cpu=$(awk 'END { gsub(/[ms]/, " "); printf "%.0f", $1 + $3 + ($2 + $4) / 60 }' "$work/times.txt")
    echo "$(date +%T) $cpu CPU min: $*" | tee -a "$work/progress.txt"
}
takes() { seq -f "--take %g_SIM" "$1" "$2" && seq -f "--take %g_4DOR" "$3" "$4"; } # first and last of MM-OR, of 4D-OR

say "simulating"
# Both stages learn from the train split and from 100 short surgeries, in which every deed and every tool is seen.
short=$(takes 501 545 501 555)
mmor data synthesize --out "$data" --take train --seconds 120 --seed 0
mmor data synthesize --out "$data" $short --seconds 40 --seed 11

# Stage 2 first learns from annotated masks, so that both stages can be trained at the same time, one core each. In small pictures
# it gets more surgeries with cameras alone, and some in which sterility is broken often; others without pictures, which take
# seconds to write, teach sound, speech, robot screen and tracker. All own takes of a folder are learnt from: stage 1 has its own.
pictures=$work/pictures
if [ ! -e "$pictures" ]; then # not by ||, in which a failure would not end the script
    rm -rf "$pictures.part"
    cp -al "$data" "$pictures.part"
    mv "$pictures.part" "$pictures"
fi
prepare() { mmor scene-graph preprocess all --audio-encoder mel "$@"; }
samples() { # data, folder, split, records of a timepoint
    mmor data convert-relations "$1" --out "$2"
    mmor scene-graph samples --data "$1" --relations "$2" --out "$2" --split "$3" --permutations "$4" --temporal \
        --no-temporal-augmentation --stale-memory 0.5 --repeat-rare 0.1
}
learn() { # folder of the model, further options
    mmor scene-graph train --config configs/scene_graph/small.yaml --data "$data" --out "$work/$1" "${@:2}"
    say "$1 is trained"
}
annotated=$work/scene_graph_first
first() {
    [ ! -e "$annotated/model.safetensors" ] || return 0
    heard=$(takes 1000 1029 1 0)
    mmor data synthesize --out "$data" $(takes 1 0 601 724) --seconds 40 --seed 14 --size 160x120 --workers 1
    mmor data synthesize --out "$data" $(takes 601 645 1 0) --seconds 60 --seed 13 --size 160x120 --breaches 8 --workers 1
    mmor data synthesize --out "$data" $heard ${heard//--take/--without-cameras} --seconds 120 --seed 15 --workers 1
    say "simulated, for stage 2"
    prepare --data "$data" --take train $short $(takes 601 645 601 724) $heard --from-annotations --workers 1
    samples "$data" "$annotated" train 1
    samples "$data" "$annotated" own 1
    say "prepared, for stage 2"
    learn scene_graph_first --samples "$annotated"/train_1perm_*.json --samples "$annotated"/own_1perm_*.json
}
# Once more, triplets first again.
again() {
    [ ! -e "$work/scene_graph_again/model.safetensors" ] || return 0
    learn scene_graph_again --samples "$annotated"/train_1perm_*.json --samples "$annotated"/own_1perm_*.json \
        --curriculum_learning_weights "$annotated" --pretrain_steps 1200
}
beside() { # not (first && again), in which a failure would not end it
    first
    again
}
# It is a process group of its own, which ends with this script, also by Ctrl-C, and fails with it.
set -m
beside &
beside=$!
set +m
trap 'kill -- "-$beside" 2>/dev/null || true' EXIT
# Stage 1 learns single frames with coarse masks first, then clips with fine masks, then in the size in which pictures come, at
# last with more points of each mask in the loss. What is rare comes more often: tools in hands of 4D-OR, cement gun, C-arm.
if [ ! -e "$work/panoptic_small/model.safetensors" ]; then
    segmenter() { # folder, model to start from, further options
        mmor panoptic train --config-file configs/panoptic/small.yaml --data "$pictures" --ground-truth "$work/ground_truth" --resume \
            --workers 1 --out "$work/$1" "${@:3}" MODEL.WEIGHTS "$2" DATASETS.TRAIN "[hybridor_panoptic_train, hybridor_panoptic_own]" \
            DATALOADER.REPEAT_THRESHOLD 1.0
        say "$1 is trained"
    }
    segmenter panoptic_coarse "" MODEL.SEM_SEG_HEAD.COMMON_STRIDE 4 MODEL.MASK_FORMER.TRAIN_NUM_POINTS 512 \
        INPUT.SAMPLING_FRAME_NUM 1 SOLVER.IMS_PER_BATCH 4 SOLVER.MAX_ITER 2000
    segmenter panoptic_clips "$work/panoptic_coarse/model.safetensors" SOLVER.MAX_ITER 1300
    full=(INPUT.MIN_SIZE_TRAIN "[240]" INPUT.MIN_SIZE_TEST 240 SOLVER.IMS_PER_BATCH 4)
    segmenter panoptic_full "$work/panoptic_clips/model.safetensors" "${full[@]}" SOLVER.MAX_ITER 1150
    # By now stage 2 is nearly through, so that both cores are free for this.
    segmenter panoptic_small "$work/panoptic_full/model.safetensors" "${together[@]}" "${full[@]}" SOLVER.MAX_ITER 1350 \
        MODEL.MASK_FORMER.TRAIN_NUM_POINTS 8192
fi
wait "$beside"
trap - EXIT
# Then stage 2 goes on with masks as it will get them: those that stage 1 predicts of 45 more short surgeries, which neither has seen.
if [ ! -e "$work/scene_graph_small/model.safetensors" ]; then
    unseen=$work/unseen
    mmor data synthesize --out "$unseen" $(takes 561 575 561 590) --seconds 40 --seed 12
    mmor panoptic predict --model "$work/panoptic_small/model.safetensors" --data "$unseen" --out "$work/predicted" "${together[@]}"
    prepare --data "$unseen" --predictions "$work/predicted/inference/pan_pred"
    samples "$unseen" "$work/scene_graph_small" own 3
    cp -alf "$unseen/." "$data"
    say "predicted, for stage 2"
    learn scene_graph_small --samples "$annotated"/train_1perm_*.json --samples "$annotated"/own_1perm_*.json \
        --samples "$work"/scene_graph_small/own_3perm_*.json --curriculum_learning_weights "$work/scene_graph_again" --pretrain_steps 0 \
        --max_steps 500 --learning_rate 7e-4 --per_device_train_batch_size "$batch" "${together[@]}"
fi

# Held-out takes go through both stages as in use: stage 2 reads the masks that stage 1 predicts.
mmor data synthesize --out "$data" --take test --seconds 120 --seed 0
mmor panoptic predict --model "$work/panoptic_small/model.safetensors" --data "$data" --take test --out "$work/test" "${together[@]}"
mmor panoptic evaluate --data "$data" --take test --out "$work/test" --canvas 320x240
prepare --data "$data" --take test --predictions "$work/test/inference/pan_pred"
mmor data convert-relations "$data" --out "$data"
mmor scene-graph infer --model "$work/scene_graph_small" --data "$data" --take test --out "$work/test/scene_graphs.json"
mmor scene-graph evaluate --predictions "$work/test/scene_graphs.json" --data "$data" --relations "$data" \
    --out "$work/test/scene_graph_scores.json"

# In 16 bits, as a package has them. Those in the package have another recipe behind them, and higher scores.
mkdir -p "$work/bundle"
python scripts/bundle_small.py "$work" "$work/bundle"
say "scored; models of 16 bits are in $work/bundle"
