#!/usr/bin/env bash
# Environment, lint and all tests.
#   bash launch/test.sh [pytest arguments ...]
set -euo pipefail
EXTRAS="test" . "$(dirname "$0")/environment.sh"
ruff check .
# Most of the suite's time is compiling, of programs that run for seconds: unoptimised ones cost a third less in all.
export XLA_FLAGS="${XLA_FLAGS:-} --xla_backend_optimization_level=0"
python -m pytest -n 2 "$@"  # two processes: what takes long is compiling, which keeps one core each busy
