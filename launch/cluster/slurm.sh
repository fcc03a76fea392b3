#!/bin/bash
# Slurm:  sbatch launch/cluster/slurm.sh small_ja [--training.steps 1000 …]
#SBATCH --job-name=fugaku_jax
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=2         # one process a socket (NUMA domain)
#SBATCH --cpus-per-task=24          # the cores of one
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@300           # five minutes before the end: finish the step, save, exit 75
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.txt
set -euo pipefail

source .venv/bin/activate

# Beyond some hundreds of processes (docs/cluster.md):
# export FUGAKU_JAX_COLLECTIVES=mpi MPITRAMPOLINE_LIB=/path/to/libmpiwrapper.so

# srun tells each process its rank and where rank 0 is. One that dies takes the others with it
# after a minute.
status=0
srun --cpus-per-task="$SLURM_CPUS_PER_TASK" --cpu-bind=cores --wait=60 \
  python launch/train.py "$@" || status=$?

# 75: stopped early but saved. The same job goes on from there.
if [ "$status" -eq 75 ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
