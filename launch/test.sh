#!/usr/bin/env bash
# Environment, lint and all tests.
#   bash launch/test.sh [pytest arguments ...]
set -euo pipefail
EXTRAS="test" . "$(dirname "$0")/environment.sh"
ruff check .
python -m pytest -n 2 "$@"  # two processes: what takes long is compiling, which keeps one core each busy
