#!/usr/bin/env bash
# Measures what benchmarks/gpu.py lists on a machine with one GPU, in ten minutes; again, it goes on where it ended.
# Nothing is installed: PYTHON (default python3) is the interpreter that has jax and PyTorch.
#   bash launch/measure_gpu.sh OUT [--budget=SECONDS] [--sides=ours|torch] [--tiny] [--dry-run]
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" exec "${PYTHON:-python3}" "$root/benchmarks/gpu.py" "$@"
