#!/usr/bin/env bash
# Creates the virtual environment, then runs the linter and all fast tests.
#   bash launch/test.sh [pytest arguments ...]
set -euo pipefail
EXTRAS="test" . "$(dirname "$0")/environment.sh"
# as the commands do (dim_jax/cli/huge_pages.py)
export GLIBC_TUNABLES=${GLIBC_TUNABLES-glibc.malloc.hugetlb=1}
ruff check .
ruff format --check .
python -m pytest -n 2 "$@"  # two processes, as compiling takes most of the time and keeps one core busy
