#!/usr/bin/env bash
# Trains on all workers of a TPU slice, brings the report back, and gives the slice back.
#   bash launch/tpu_pod.sh train NAME ZONE --accelerator-type=v5litepod-16 --runtime-version=v2-alpha-tpuv5-lite --spot \
#     -- --config=configs/classifier.py --config.data.path=DATA --workdir=/mnt/shared/runs/a
#   bash launch/tpu_pod.sh fetch NAME ZONE /mnt/shared/runs/a [FOLDER]     copies the run to FOLDER (default runs)
#   bash launch/tpu_pod.sh delete NAME ZONE
# `train` requests the slice with the options before -- as the queued resource NAME, waits for it, installs the committed
# state of this checkout on every worker, and trains with the options after --. What is there already is used. A slice
# that is preempted is requested again, and the run resumes: --workdir must then be on storage that outlives the slice,
# such as gs://BUCKET/FOLDER, where `report` finds the run without `fetch`.
# If this script is stopped, the same command goes on. The data must be at the same path on every worker.
#   SEND  a folder of this checkout to copy to every worker too, for example prepared data
#   POLL  seconds between looks at a slice that is not ready (default 60)
set -euo pipefail
usage() {
  sed -n '2,7s/^# \{0,1\}//p' "$0" >&2
  exit 2
}
[ $# -ge 3 ] || usage
command=$1 name=$2 zone=$3
shift 3

tpus() { # GROUP COMMAND [ARGUMENTS]
  gcloud compute tpus "$@" --zone="$zone"
}

on() { # WORKER COMMAND
  tpus tpu-vm ssh "$name" --worker="$1" --command="$2" --ssh-flag="-o ServerAliveInterval=30"
}

node_state() { # READY, CREATING, PREEMPTED, ...; nothing if there is no such slice
  tpus tpu-vm describe "$name" --format='value(state)' 2>/dev/null || true
}

queue_state() { # of the queued resource: ACTIVE, SUSPENDED, ...; nothing if there is none
  tpus queued-resources describe "$name" --format='value(state.state)' 2>/dev/null || true
}

delete() {
  tpus queued-resources delete "$name" --force --quiet
}

wait_until_ready() { # OPTIONS of queued-resources create
  local node queue
  while node=$(node_state) && [ "$node" != READY ]; do
    queue=$(queue_state)
    case "$queue/$node" in
      /*)
        tpus queued-resources create "$name" --node-id="$name" "$@"
        continue
        ;;
      SUSPENDED/* | ACTIVE/PREEMPTED | ACTIVE/TERMINATED)
        echo "$name was preempted; requesting it again" >&2
        delete
        continue
        ;;
      FAILED/*)
        echo "error: the request for $name failed; see gcloud compute tpus queued-resources describe $name" \
          "--zone=$zone, then delete it and ask for another slice" >&2
        exit 1
        ;;
    esac
    echo "$name: $queue" >&2
    sleep "${POLL:-60}"
  done
}

install() { # errexit has no effect in what a condition calls
  local root archive
  root=$(dirname "$0")/..
  archive=$(mktemp --suffix=.tar) &&
    git -C "$root" archive --output="$archive" HEAD &&
    { [ -z "${SEND:-}" ] || tar rf "$archive" -C "$root" "$SEND"; } &&
    tpus tpu-vm scp "$archive" "$name:dim_jax.tar" --worker=all &&
    on all 'set -e; mkdir -p dim_jax; tar xf dim_jax.tar -C dim_jax; EXTRAS=gcs; . dim_jax/launch/environment.sh
      python -m pip install --quiet "jax[tpu]"' &&
    rm "$archive"
}

train() {
  local options=() code
  while [ $# -gt 0 ] && [ "$1" != -- ]; do
    options+=("$1")
    shift
  done
  [ $# -ge 2 ] || usage
  shift
  while true; do
    wait_until_ready "${options[@]}"
    code=0
    { install && on all "cd dim_jax && . .venv/bin/activate && python -m dim_jax.train $(printf '%q ' "$@")"; } || code=$?
    if [ "$code" = 0 ] || [ "$(node_state)" = READY ]; then
      exit "$code"
    fi
  done
}

fetch() { # RUN [FOLDER]
  [ $# -ge 1 ] || usage
  local run=${1%/} folder=${2:-runs} archive
  archive=$(mktemp --suffix=.tar.gz)
  on 0 "set -e; cd dim_jax; . .venv/bin/activate; JAX_PLATFORMS=cpu python -m dim_jax.report $(printf '%q' "$run")
    tar czf ~/run.tar.gz --exclude=checkpoints -C $(printf '%q %q' "$(dirname "$run")" "$(basename "$run")")"
  tpus tpu-vm scp "$name:run.tar.gz" "$archive" --worker=0
  mkdir -p "$folder"
  tar xzf "$archive" -C "$folder"
  rm "$archive"
  echo "report: $folder/$(basename "$run")/report.html"
}

case $command in
  train | fetch | delete) "$command" "$@" ;;
  *) usage ;;
esac
