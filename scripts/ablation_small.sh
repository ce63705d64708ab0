#!/usr/bin/env bash
# What each modality is worth to the small scene-graph model: one training from nothing for each row of the table, with the
# same steps, samples, seed and test takes. About 80 minutes on one core.
# Usage: bash scripts/ablation_small.sh [FOLDER]   (default: output/ablation)
# What is finished is kept: after an interruption, run it again.
source "$(dirname "$0")/environment.sh"
export OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1
work=${1:-output/ablation}
data=$work/data
mkdir -p "$work"

# 50 own takes to learn from, annotated masks; the test takes with the masks that the segmenter of the package predicts.
own=$(seq -f "--take %g_SIM" 141 165; seq -f "--take %g_4DOR" 141 165)
mmor data synthesize --out "$data" $own --seconds 120 --seed 0 --size 160x120
mmor data synthesize --out "$data" --take test --seconds 120 --seed 0
mmor data convert-relations "$data" --out "$work"
mmor scene-graph preprocess all --data "$data" $own --audio-encoder mel --from-annotations
mmor panoptic predict --model mmor/checkpoints/panoptic_small/model.safetensors --data "$data" --take test --out "$work/test"
mmor scene-graph preprocess all --data "$data" --take test --audio-encoder mel --predictions "$work/test/inference/pan_pred"

views=AZURE,SIMSTATION,TRACKERCAM
everything=$views,PC,AUDIO,SPEECH,ROBOTMETA,TRACKINGMETA,PREDSEGMASKS
# row NAME MODALITIES-OF-THE-SAMPLES MODALITIES-OF-THE-MODEL [--temporal]
row() {
    local out=$work/$1 memory=--no-memory options=()
    [ -e "$out/scores.json" ] && return
    [ "${4:-}" = --temporal ] && memory=--memory options=(--temporal --no-temporal-augmentation)
    mkdir -p "$out"
    sed -e "s/modalities: .*/modalities: [$3]/" -e "s/{steps: [0-9]*, batch_size: [0-9]*/{steps: 400, batch_size: 16/" \
        configs/scene_graph/small.yaml >"$out/experiment.yaml"
    mmor scene-graph samples --data "$data" --relations "$work" --out "$out" --split own --permutations 1 \
        --modalities "$2" "${options[@]}"
    [ -e "$out/model/model.safetensors" ] || mmor scene-graph train --config "$out/experiment.yaml" --data "$data" \
        --samples "$out"/own_1perm_*.json --out "$out/model" --max_steps 600
    mmor scene-graph infer --model "$out/model" --data "$data" --take test --out "$out/predictions.json" $memory
    mmor scene-graph evaluate --predictions "$out/predictions.json" --data "$data" --relations "$work" \
        --out "$out/scores.json"
}
row views $views views
row masks $views,PREDSEGMASKS "views, masks"
row cloud $views,PC "views, cloud"
row audio $views,AUDIO "views, audio"
row speech $views,SPEECH "views, speech"
row robot $views,ROBOTMETA,TRACKINGMETA "views, robot, tracker"
row all $everything "views, cloud, audio, masks, robot, tracker, speech"
row memory $everything "views, cloud, audio, masks, robot, tracker, speech" --temporal
python scripts/ablation_table.py "$work"
