#!/usr/bin/env bash
# The small models on real label statistics: render 120 annotated timepoints of a take, run both stages, score;
# training samples are written as well.
# Usage: bash scripts/real_annotations.sh relationships_validation.json [TAKE] [FOLDER]
relations=$(realpath "${1:?give a relationships_*.json of the published repository}")
source "$(dirname "$0")/environment.sh"
export OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1
take=${2:-002_PKA}
work=${3:-output/real_annotations}
models=mmor/checkpoints

mmor data synthesize --out "$work/data" --relations "$relations" --take "$take" --seconds 120 --seed 7
mmor data convert-relations "$work/data" --out "$work/data"
mmor panoptic predict --model $models/panoptic_small/model.safetensors --data "$work/data" --out "$work" --name val
mmor panoptic evaluate --data "$work/data" --out "$work" --name val --canvas 320x240
mmor scene-graph preprocess all --data "$work/data" --audio-encoder mel --predictions "$work/inference/pan_pred"
mmor scene-graph samples --data "$work/data" --relations "$work/data" --out "$work" --split val --permutations 1 --temporal
mmor scene-graph infer --model $models/scene_graph_small --data "$work/data" --out "$work/scene_graphs.json"
mmor scene-graph evaluate --predictions "$work/scene_graphs.json" --data "$work/data" --relations "$work/data" --split val
