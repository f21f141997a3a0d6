#!/usr/bin/env bash
# Trains on this machine, on all of its devices.
#   bash launch/local.sh --config=configs/classifier.py --config.data.path=DATA --workdir=runs/a [more options of train]
set -euo pipefail
if [ $# -lt 1 ]; then
  echo "usage: bash launch/local.sh --config=FILE --workdir=RUN [more options of python -m dim_jax.train]" >&2
  exit 2
fi
. "$(dirname "$0")/environment.sh"
exec python -m dim_jax.train "$@"
