#!/usr/bin/env bash
# Environment, lint and all tests.
#   bash launch/test.sh [pytest arguments ...]
set -euo pipefail
EXTRAS=test . "$(dirname "$0")/environment.sh"
ruff check .
python -m pytest "$@"
