#!/bin/bash
# Slurm:  sbatch launch/cluster/slurm.sh small_ja [--training.steps 1000 …]
#SBATCH --job-name=fugaku_jax
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=2         # one process a socket (NUMA domain)
#SBATCH --cpus-per-task=24          # the cores of one
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.txt
set -euo pipefail

source .venv/bin/activate

# Beyond some hundreds of processes (docs/cluster.md):
# export FUGAKU_JAX_COLLECTIVES=mpi MPITRAMPOLINE_LIB=/path/to/libmpiwrapper.so

# srun tells each process its rank and where rank 0 is, and Slurm when the job ends: 300 seconds
# before, the run saves and stops. One that dies takes the others with it after a minute.
export FUGAKU_JAX_JOB_END=${SLURM_JOB_END_TIME:-$(squeue -h -j "$SLURM_JOB_ID" -o %e)}
status=0
srun --cpus-per-task="$SLURM_CPUS_PER_TASK" --cpu-bind=cores --wait=60 \
  python launch/train.py "$@" --training.stop-before-limit 300 || status=$?

# Stopped but saved, or ended by a fault: the same job goes on, unless nothing comes of it.
if python launch/cluster/go_on.py "$status" "$@"; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
