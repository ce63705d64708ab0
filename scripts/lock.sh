#!/usr/bin/env bash
# Makes scripts/requirements.lock: every package, also the indirect ones, in the newest version that pyproject.toml allows.
# Run it with Python 3.11, the oldest that is supported; then `bash scripts/test.sh`, and commit both together.
# A new environment is made for it and removed. What needs a GPU to be built (spconv, flash-attn) is not in the list, and
# neither are the CUDA libraries, whose versions torch itself names.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
torch=$(sed -n "s/^torch==//p" scripts/requirements.lock)+cpu # the newest CPU build: change it in the list to try another
python3 -m venv "$work/venv"
echo "torch==$torch" >"$work/torch.txt"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check --constraint "$work/torch.txt" \
    --editable ".[dev,quant,deepspeed,wandb,asr,egoexor,export]"
{
    echo "# All packages of mmor[dev,quant,deepspeed,wandb,asr,egoexor,export], made by scripts/lock.sh with $(python3 --version) on $(date -u +%F)."
    "$work/venv/bin/python" -m pip freeze --all --exclude mmor --exclude pip | sed 's/+cpu$//'
} >"$work/lock"
mv "$work/lock" scripts/requirements.lock
grep -c == scripts/requirements.lock
