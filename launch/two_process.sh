#!/usr/bin/env bash
# Trains a tiny classifier in two processes with two fake CPU devices each, connected over the loopback interface:
# multi-host training on one machine, in a minute or two.
#   bash launch/two_process.sh [FOLDER] [more options of train]      FOLDER is the run directory (default runs/two_process)
#   PORT  port of the first process (default 12355)
set -euo pipefail
. "$(dirname "$0")/environment.sh"
folder=${1:-runs/two_process}
shift $(($# > 0))
export JAX_COORDINATOR_ADDRESS=127.0.0.1:${PORT:-12355} JAX_NUM_PROCESSES=2
export JAX_PLATFORMS=cpu XLA_FLAGS=--xla_force_host_platform_device_count=2
train() {
  local process=$1
  shift
  JAX_PROCESS_ID=$process python -m dim_jax.train --config=configs/classifier.py:test --config.data.path=phantom \
    --workdir="$folder" "$@"
}
train 1 "$@" &
second=$!
trap 'kill "$second" 2>/dev/null || true' EXIT
train 0 "$@"
wait "$second"
