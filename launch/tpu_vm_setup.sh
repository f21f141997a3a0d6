#!/usr/bin/env bash
# Installs the committed state of this checkout into ~/dim_jax on every worker of a TPU VM or pod slice. Run it again
# after every change.
#   bash launch/tpu_vm_setup.sh NAME ZONE
set -euo pipefail
if [ $# -ne 2 ]; then
  echo "usage: bash launch/tpu_vm_setup.sh NAME ZONE" >&2
  exit 2
fi
name=$1 zone=$2
cd "$(dirname "$0")/.."
archive=$(mktemp --suffix=.tar.gz)
trap 'rm -f "$archive"' EXIT
git archive --output="$archive" HEAD
gcloud compute tpus tpu-vm scp "$archive" "$name:dim_jax.tar.gz" --zone="$zone" --worker=all
gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all --command='
  set -e
  mkdir -p dim_jax
  tar xzf dim_jax.tar.gz -C dim_jax
  . dim_jax/launch/environment.sh
  python -m pip install --quiet "jax[tpu]"'
