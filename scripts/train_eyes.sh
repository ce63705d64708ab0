#!/usr/bin/env bash
# Train the small scene-graph model with eyes, from nothing: simulate rooms in which each modality has its own news (docs/simulator.md), prepare,
# teach what patches show, who holds what, triplets, language, and then memory of the model's own answers. Takes a GPU if
# there is one. The segmenter is not trained; masks are the annotated ones.
# Usage: bash scripts/train_eyes.sh [FOLDER]   (default: output/eyes). What is finished is kept: after an interruption, run it
# again. Variables, with their defaults for 2 cores: ROOMS=60 (of each dataset) PLAIN=0 (rooms without news, of each) LENGTH=120 (s)
# SHORT=0 SHORT_4DOR=0 HEARD=0 (more takes, of 40 s: of MM-OR, of 4D-OR, of MM-OR without pictures; docs/eyes.md, "Eyes near
# the deed, more takes")
# ONLY= (samples: stop before training, for scripts/ablation_eyes.py; simulated: before the samples) PATCHES=1200 HANDS=600
# TRIPLETS=4000 LANGUAGE=3000 AGAIN=500 (steps) ANSWERED=8 (takes whose answers go into memory; 0: none) BATCH=8 SEEN=8
# READERS (processes that read; without a GPU 0, with one all processors but two) BF16 (True or False; True without a GPU where the processor has instructions for it) CONFIG=configs/scene_graph/small_eyes.yaml PICTURES=160x120 MMOR=mmor (the command) EXPORT= (a folder
# that gets the model, in 16 bits, and its logs: 9 MB).
set -euo pipefail
[ -n "${MMOR:-}" ] || source "$(dirname "$0")/environment.sh"
export OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
work=${1:-output/eyes}
data=$work/data
config=${CONFIG:-configs/scene_graph/small_eyes.yaml}
command=${MMOR:-mmor}
length=${LENGTH:-120}
rooms=${ROOMS:-60}
answered=${ANSWERED:-8}
readers=0
bf16=False
if command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1; then
    readers=$(($(nproc) > 2 ? $(nproc) - 2 : 0))
else
    ! grep -qsE 'amx_bf16|avx512_bf16' /proc/cpuinfo || bf16=True
    # With the malloc of the C library a training becomes slower the longer it runs (docs/performance.md).
    jemalloc=$(PATH=$PATH:/sbin ldconfig -p 2>/dev/null | sed -n 's/.*=> \(.*libjemalloc\.so\.2\)$/\1/p' | head -n 1) || true
    [ -z "$jemalloc" ] || export LD_PRELOAD=$jemalloc
fi
mkdir -p "$work"
say() { echo "$(date +%T) $*" | tee -a "$work/progress.txt"; }
size=$(sed -n 's/.*image_size: \([0-9]*\).*/\1/p' "$config")

say "simulating"
takes() { seq -f "--take %g_SIM" "$1" "$2" && seq -f "--take %g_4DOR" "$1" "$2"; } # FIRST LAST
own=$(takes 401 $((400 + rooms)))
plain=$(takes 701 $((700 + ${PLAIN:-0})))
simulate=($command data synthesize --out "$data" --seconds "$length" --seed 0 --size "${PICTURES:-160x120}" --calibration)
"${simulate[@]}" $own --news
[ -z "$plain" ] || "${simulate[@]}" $plain
own="$own $plain"
short=$(seq -f "--take %g_SIM" 501 $((500 + ${SHORT:-0})) && seq -f "--take %g_4DOR" 501 $((500 + ${SHORT_4DOR:-0})))
heard=$(seq -f "--take %g_SIM" 1001 $((1000 + ${HEARD:-0})))
more=($command data synthesize --out "$data" --seconds 40 --seed 11 --size "${PICTURES:-160x120}" --news)
[ -z "$short" ] || "${more[@]}" $short
[ -z "$heard" ] || "${more[@]}" $heard ${heard//--take/--without-cameras}
own="$own $short"
$command data convert-relations "$data" --out "$data"
say "preparing"
$command scene-graph preprocess all --data "$data" $own $heard --audio-encoder mel --from-annotations
$command scene-graph preprocess views --data "$data" $own --size "$size"

[ "${ONLY:-}" != simulated ] || exit 0

# learn FOLDER STEPS [OPTIONS OF SAMPLES] -- [OPTIONS OF TRAIN]
learn() {
    local out=$work/$1 steps=$2 of_samples=()
    shift 2
    [ -e "$out/model.safetensors" ] && return
    while [ "$1" != -- ]; do of_samples+=("$1"); shift; done
    shift
    mkdir -p "$out"
    # From the file, so that an interrupted training finds the settings that it began with.
    sed -e "s/^pretrain: .*/pretrain: {patch_steps: ${PATCHES:-1200}, hand_steps: ${HANDS:-600}, steps: ${TRIPLETS:-4000}, \
batch_size: ${SEEN:-8}, learning_rate: 1.5e-3, matrix_learning_rate: 0.01, hand_learning_rate: 5.0e-4, views_share: 0.75, held_out: 0.05, patch_domain: small_things.yaml}/" "$config" >"$out/experiment.yaml"
    $command scene-graph samples --data "$data" --relations "$data" --out "$out" --temporal --no-temporal-augmentation \
        --permutations 1 --split own "${of_samples[@]}"
    [ "${ONLY:-}" != samples ] || exit 0
    $command scene-graph train --config "$out/experiment.yaml" --data "$data" --out "$out" --samples "$out"/own_1perm_*.json \
        --max_steps "$steps" --per_device_train_batch_size "${BATCH:-8}" --num_train_epochs 1000 \
        --dataloader_num_workers "${READERS:-$readers}" --bf16 "${BF16:-$bf16}" "$@"
    rm -rf "$out"/checkpoint-*
}
# Model (in 16 bits) and logs of a training, as soon as it is over.
export_model() {
    [ -n "${EXPORT:-}" ] || return 0
    rm -rf "$EXPORT/model"
    mkdir -p "$EXPORT/$1"
    find "$work/$1" -maxdepth 1 -type f \( -name '*.jsonl' -o -name '*.yaml' \) -exec cp {} "$EXPORT/$1/" \;
    cp "$work/progress.txt" "$EXPORT/"
    python - "$work/$1" "$EXPORT/model" <<'END'
import sys
from pathlib import Path

import torch

from scene_graph_generation.weights.checkpoints import load_model, save_model

save_model(Path(sys.argv[2]), *load_model(Path(sys.argv[1])), torch.float16)
END
}

say "learning to see and to speak"
habits="--stale-memory 0.3 --repeat-rare 0.05" # memories that end too early, seldom triplets shown more often
learn first "${LANGUAGE:-3000}" $habits --
export_model first
if [ "$answered" -gt 0 ]; then
    say "answering"
    some=$(seq -f "--take %g_SIM" 401 $((400 + (answered + 1) / 2)); seq -f "--take %g_4DOR" 401 $((400 + answered / 2)))
    $command scene-graph infer --model "$work/first" --data "$data" $some --out "$work/answers.json" --batch-size "$answered"
    say "learning from its own answers"
    PATCHES=0 HANDS=0 TRIPLETS=0 learn second "${AGAIN:-500}" $habits --answers "$work/answers.json" -- \
        --curriculum_learning_weights "$work/first"
    export_model second
fi
say "done"
