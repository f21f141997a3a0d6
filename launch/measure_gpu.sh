#!/usr/bin/env bash
# Runs the measurements of benchmarks/gpu.py on a machine with one GPU, in ten minutes; run again, it resumes.
# Installs nothing: PYTHON (default python3) is an interpreter with jax and PyTorch.
#   bash launch/measure_gpu.sh OUT [--budget=SECONDS] [--sides=ours|torch] [--tiny] [--dry-run]
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" exec "${PYTHON:-python3}" "$root/benchmarks/gpu.py" "$@"
