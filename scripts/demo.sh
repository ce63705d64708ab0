#!/usr/bin/env bash
# From a fresh clone to report.html: makes an environment if none is active, installs, runs the demo.
# Options go to `mmor demo`, for example: bash scripts/demo.sh --train
source "$(dirname "$0")/environment.sh"
exec mmor demo "$@"
