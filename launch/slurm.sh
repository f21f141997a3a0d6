#!/usr/bin/env bash
#SBATCH --job-name=dim_jax
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --output=%x-%j.log
# Trains on all GPUs of the nodes of a SLURM job: one task per node, which takes all of its GPUs. For one task per GPU,
# submit with --ntasks-per-node=8 --gpu-bind=none. Submit from the root of the repository; sbatch's options override the
# lines above. --workdir and the data must be on storage that all nodes share.
#   sbatch --nodes=4 launch/slurm.sh --config=configs/classifier.py --config.data.path=DATA --workdir=runs/a [...]
#   CUDA  which build of JAX to install (default cuda12)
# Two minutes before the time limit the job gets SIGTERM: it saves a checkpoint, and the same command resumes.
set -euo pipefail
if [ $# -lt 1 ]; then
  echo "usage: sbatch launch/slurm.sh --config=FILE --workdir=RUN [more options of python -m dim_jax.train]" >&2
  exit 2
fi
# SLURM runs a copy of this script from another folder.
. "${SLURM_SUBMIT_DIR:-.}/launch/environment.sh"
python -m pip install --quiet "jax[${CUDA:-cuda12}]"
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1} # srun takes no --cpus-per-task from the job by itself
srun python -m dim_jax.train "$@"
