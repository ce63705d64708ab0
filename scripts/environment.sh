# Sourced by the other scripts: a virtual environment with the project in it.
# Usage: [extra=dev] before `source scripts/environment.sh` (a variable: a sourced file sees its caller's arguments)
# Makes .venv if no virtual environment is active. Without an NVIDIA GPU it asks pip for a CPU build of torch
# (scripts/constraints-cpu.txt) and takes any build if pip knows none.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [ -z "${VIRTUAL_ENV:-}" ]; then
    [ -x .venv/bin/python ] || python3 -m venv .venv
    source .venv/bin/activate
fi
if ! python -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "error: mmor needs Python 3.11 or newer, this is $(python --version); install one and delete .venv" >&2
    exit 2
fi

extra="${extra:-}"
installed="$VIRTUAL_ENV/.mmor-installed-$extra" # newer than pyproject.toml once this has succeeded
if [ ! "$installed" -nt pyproject.toml ]; then
    echo "Installing mmor into $VIRTUAL_ENV (1.7 GB with a CPU build of torch; some minutes the first time) ..."
    install=(python -m pip install --quiet --disable-pip-version-check --editable ".${extra:+[$extra]}")
    if command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1; then
        "${install[@]}"
    elif ! "${install[@]}" --constraint scripts/constraints-cpu.txt 2>/dev/null; then
        echo "pip knows no CPU build of torch; taking the build it has."
        "${install[@]}"
    fi
    touch "$installed"
fi
