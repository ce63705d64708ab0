#!/usr/bin/env bash
# From a fresh clone to a verdict: environment, lint, types, tests. Options go to pytest.
# LATEST=1 takes the newest versions that pyproject.toml allows in place of those in scripts/requirements.lock.
extra=dev
source "$(dirname "$0")/environment.sh"
export HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false
ruff format --check .
ruff check .
ty check --error-on-warning
exec python -m pytest -n 2 "$@"
