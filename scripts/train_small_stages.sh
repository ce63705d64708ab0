#!/usr/bin/env bash
# The three stages of stage 1 one after the other at small size, each scored on held-out simulated takes:
# CTVIS, the online tracker on it, the offline refiner on both. Usage: bash scripts/train_small_stages.sh [FOLDER]
# FOLDER (default: output/small) is that of scripts/train_small.sh, which must have simulated its takes and trained CTVIS.
# What is finished is kept: after an interruption, run it again.
source "$(dirname "$0")/environment.sh"
export OMP_NUM_THREADS=1
work=${1:-output/small}

train() { # experiment file, model to start from
    mmor panoptic train --config-file "configs/panoptic/$1.yaml" --data "$work/pictures" --out "$work/panoptic_$1" --resume \
        --ground-truth "$work/ground_truth" MODEL.WEIGHTS "$work/panoptic_$2/model.safetensors" \
        DATASETS.TRAIN "[hybridor_panoptic_train, hybridor_panoptic_own]"
}
train small_online clips  # of small.yaml, as the tracker and the refiner are
train small_offline small_online

for stage in clips small_online small_offline; do
    echo "== $stage"
    mmor panoptic predict --model "$work/panoptic_$stage" --data "$work/data" --take test --out "$work/test_$stage"
    mmor panoptic evaluate --data "$work/data" --take test --out "$work/test_$stage" --canvas 320x240 \
        --ground-truth "$work/ground_truth"
done
