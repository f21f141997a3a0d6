#!/usr/bin/env bash
# Trains the small LRF-CNN with every loss on one prepared dataset, and FAFL with three margins; run again, it resumes.
#   bash launch/compare_losses.sh DATA RUNS [more --config.FIELD=VALUE ...]
set -euo pipefail
if [ $# -lt 2 ]; then
  echo "usage: bash launch/compare_losses.sh DATA RUNS [--config.FIELD=VALUE ...]" >&2
  exit 2
fi
data=$1 runs=$2
shift 2
train() {
  local name=$1
  shift
  python -m dim_jax.train --config="$(dirname "$0")/../configs/classifier.py:small" --config.data.path="$data" \
    --workdir="$runs/$name" "$@"
}
train cross_entropy --config.loss.name=cross_entropy "$@"
for m in 1 4 16; do
  train "fafl_m$m" --config.loss.m="$m" "$@"
done
train published_fafl --config.loss.name=published_fafl --config.loss.m=1 "$@"
train logit_adjusted --config.loss.name=logit_adjusted_cross_entropy "$@"
train label_smoothing --config.loss.name=cross_entropy --config.loss.label_smoothing=0.1 "$@"
for name in weighted_cross_entropy class_balanced_cross_entropy ohem_cross_entropy balanced_softmax ldam focal \
  class_balanced_focal soft_f1 soft_mcc; do
  train "$name" --config.loss.name="$name" "$@"
done
python -m dim_jax.report "$runs"/*/ --out="$runs/report.html"
