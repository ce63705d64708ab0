# Sourced by the other scripts: a virtual environment with the project in it.
# Usage: [extra=dev] [LATEST=1] before `source scripts/environment.sh` (variables: a sourced file sees its caller's arguments)
# Makes .venv (.venv-latest) if no virtual environment is active, and installs exactly the versions that are listed in
# scripts/requirements.lock, or with LATEST=1 the newest that pyproject.toml allows. Without an NVIDIA GPU it takes a CPU
# build of torch: from where pip is configured to look, else from PyTorch's own index, else whatever build there is. GPU_BUILD=1 says
# that the environment is for machines with a GPU, as scripts/slurm.sh does: the one that queues jobs has none.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [ -w . ] && command -v flock >/dev/null; then # jobs of an array begin together: one makes the environment, for all
    exec 9>.venv.lock
    flock -n 9 || { echo "Waiting for another script that makes the environment ..." && flock 9; } || true
fi
latest="${LATEST:+-latest}"
if [ -z "${VIRTUAL_ENV:-}" ]; then
    # activate is written last: without it the making was stopped, or failed for want of python3-venv.
    [ -f ".venv$latest/bin/activate" ] || python3 -m venv --clear ".venv$latest"
    source ".venv$latest/bin/activate"
fi
if ! python -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "error: mmor needs Python 3.11 or newer, this is $(python --version); install one and delete .venv" >&2
    exit 2
fi

gpu="${GPU_BUILD:-}"
if command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1; then gpu=1; fi
if [ -n "$gpu" ] && [ -e "$VIRTUAL_ENV/torch.txt" ]; then
    echo "$VIRTUAL_ENV was made without a GPU and has a CPU build of torch, which is replaced."
    rm -f "$VIRTUAL_ENV"/.mmor-installed-*
    python -m pip uninstall --quiet --yes torch
    rm "$VIRTUAL_ENV/torch.txt"
fi

extra="${extra:-}"
installed="$VIRTUAL_ENV/.mmor-installed-$extra$latest" # newer than what it was made from once this has succeeded
if [ ! "$installed" -nt pyproject.toml ] || [ ! "$installed" -nt scripts/requirements.lock ]; then
    echo "Installing mmor into $VIRTUAL_ENV (1.7 GB with a CPU build of torch; some minutes the first time) ..."
    pip=(python -m pip install --quiet --disable-pip-version-check)
    versions=(--constraint scripts/requirements.lock)
    [ -z "$latest" ] || versions=(--upgrade --upgrade-strategy eager)
    if [ -z "$gpu" ]; then
        torch=$(sed -n 's/^torch==//p' scripts/requirements.lock)+cpu
        if [ -n "$latest" ] && "${pip[@]}" --retries 0 --upgrade --index-url https://download.pytorch.org/whl/cpu torch 2>/dev/null; then
            torch=$(python -c 'import torch; print(torch.__version__)')
        elif [ -n "$latest" ]; then
            echo "PyTorch's own index of CPU builds is not reached; taking $torch, which may not be the newest."
        fi
        if "${pip[@]}" "torch==$torch" 2>/dev/null ||
            "${pip[@]}" --retries 0 --index-url https://download.pytorch.org/whl/cpu "torch==$torch" 2>/dev/null; then
            echo "torch==$torch" >"$VIRTUAL_ENV/torch.txt"
            versions+=(--constraint "$VIRTUAL_ENV/torch.txt") # so that nothing replaces it
        else
            echo "pip knows no CPU build of torch; taking the build it has."
        fi
    fi
    "${pip[@]}" --editable ".${extra:+[$extra]}" "${versions[@]}"
    touch "$installed"
fi
exec 9>&-
