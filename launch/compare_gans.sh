#!/usr/bin/env bash
# Trains the small GCGAN of one class in its corrected, published and FastGAN variants for the same number of steps and
# images, generates a pool from each and selects from it; run again, it resumes. CLASSIFIER is a run on the same data,
# trained on real images only.
#   bash launch/compare_gans.sh DATA CLASSIFIER RUNS LABEL [more --config.FIELD=VALUE ...]
set -euo pipefail
if [ $# -lt 4 ]; then
  echo "usage: bash launch/compare_gans.sh DATA CLASSIFIER RUNS LABEL [--config.FIELD=VALUE ...]" >&2
  exit 2
fi
data=$1 classifier=$2 runs=$3 label=$4
shift 4
compare() {
  local name=$1 variants=$2
  shift 2
  python -m dim_jax.train --config="$(dirname "$0")/../configs/gan.py:$variants" --config.data.path="$data" \
    --config.gan.label="$label" --workdir="$runs/$name" "$@"
  python -m dim_jax.generate --workdir="$runs/$name" --num=200 --out="$runs/$name/pool"
  python -m dim_jax.select --pool="$runs/$name/pool" --data="$data" --classifier="$classifier" --keep=20 \
    --out="$runs/$name/selected"
}
compare corrected small "$@"
compare fastgan fastgan,small "$@"
# The published batch size is 2 and the published perceptual network needs a download; both are set as in the other
# variants.
compare published published,small --config.gan.perceptual=lite0 --config.train.global_batch_size=8 "$@"
python -m dim_jax.report "$runs"/{corrected,fastgan,published} --out="$runs/report.html"
