#!/usr/bin/env bash
#SBATCH --job-name=dim_jax
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%A_%a.log
# Runs an experiment on a SLURM cluster: a job array for every stage of its tasks, which starts when the stage before has
# succeeded. Call it on a login node. Options of sbatch come before --, those of train after it. --workdir and the data
# must be on storage that all nodes share. The same command again does what is not finished.
#   bash launch/slurm_array.sh --gpus=1 -- --config=configs/experiment.py --config.data.path=DATA --workdir=runs/dim
#   CUDA  which build of JAX to install (default cuda12; empty: that for CPUs)
# Two minutes before its time limit a task gets SIGTERM: it saves a checkpoint, is queued again, and resumes.
set -euo pipefail
if [ -n "${SLURM_ARRAY_TASK_ID:-}" ]; then
  cd "$SLURM_SUBMIT_DIR"
  # shellcheck source=/dev/null
  . "${VENV:-.venv}/bin/activate"
  export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}
  code=0
  srun python -m dim_jax.train "$@" --task="$SLURM_ARRAY_TASK_ID" || code=$?
  if [ "$code" = 75 ]; then
    exec scontrol requeue "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"
  fi
  exit "$code"
fi

options=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do
  options+=("$1")
  shift
done
if [ $# -lt 2 ]; then
  echo "usage: bash launch/slurm_array.sh [options of sbatch] -- --config=FILE --workdir=RUN [more options of train]" >&2
  exit 2
fi
shift
. "$(dirname "$0")/environment.sh"
cuda=${CUDA-cuda12}
python -m pip install --quiet "jax${cuda:+[$cuda]}"
tasks=$(JAX_PLATFORMS=cpu python -m dim_jax.train "$@" --list-tasks)
job=
for stage in $(awk 'NR > 1 { print $2 }' <<<"$tasks" | sort -nu); do
  array=$(awk -v stage="$stage" 'NR > 1 && $2 == stage { print $1 }' <<<"$tasks" | paste -sd,)
  after=(${job:+--dependency="afterok:$job" --kill-on-invalid-dep=yes})
  job=$(sbatch --parsable "${options[@]}" --array="$array" "${after[@]}" launch/slurm_array.sh "$@")
  job=${job%%;*} # a cluster's name may follow
  echo "stage $stage: job $job, tasks $array"
done
