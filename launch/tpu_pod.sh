#!/usr/bin/env bash
# Runs one training on all workers of a TPU VM or pod slice that launch/tpu_vm_setup.sh has set up; the workers find one
# another. The data must be at the same path on every worker; --workdir is on worker 0, unless it is on shared storage.
#   bash launch/tpu_pod.sh NAME ZONE --config=configs/classifier.py --config.data.path=DATA --workdir=runs/a [...]
set -euo pipefail
if [ $# -lt 3 ]; then
  echo "usage: bash launch/tpu_pod.sh NAME ZONE --config=FILE --workdir=RUN [more options of python -m dim_jax.train]" >&2
  exit 2
fi
name=$1 zone=$2
shift 2
gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all \
  --command="cd dim_jax && . .venv/bin/activate && python -m dim_jax.train $(printf '%q ' "$@")"
