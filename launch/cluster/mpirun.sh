#!/bin/bash
# Open MPI or MPICH:  launch/cluster/mpirun.sh HOSTFILE small_ja [--training.steps 1000 …]
#
# HOSTFILE names a host a line and how many processes it gets, as in "node001 slots=2": one a NUMA
# domain (socket) is a good start. Every host needs this directory at the same path.
set -euo pipefail

hostfile=${1:?the first argument is a host file}
shift

# The machine's MPI is taken before one that pip may have put into .venv: its mpirun starts, and its
# mpicc compiles what sends.
export PATH=$PATH:$PWD/.venv/bin
python=$PWD/.venv/bin/python

# Rank 0 is on the first host of the file; any free port will do.
first=$(awk '!/^[[:space:]]*(#|$)/ { print $1; exit }' "$hostfile")
export FUGAKU_JAX_COORDINATOR=${FUGAKU_JAX_COORDINATOR:-$first:61500}

# With `--mesh.collective torus` gradients are summed by messages of this MPI (docs/cluster.md);
# gloo in its place lets them go over TCP.
export FUGAKU_JAX_COLLECTIVES=${FUGAKU_JAX_COLLECTIVES:-mpi}

if mpirun --version 2>&1 | grep -q "Open MPI"; then
  start=(mpirun --hostfile "$hostfile" --map-by numa --bind-to numa:overload-allowed
    -x FUGAKU_JAX_COORDINATOR -x FUGAKU_JAX_COLLECTIVES -x PATH)
else # MPICH and its like write host:N, and pass all variables on
  mpich_hosts=$(mktemp)
  trap 'rm -f "$mpich_hosts"' EXIT
  awk '!/^[[:space:]]*(#|$)/ {
         slots = match($0, /slots=[0-9]+/) ? substr($0, RSTART + 6, RLENGTH - 6) : 1
         print $1 ":" slots
       }' "$hostfile" > "$mpich_hosts"
  processes=$(awk -F: '{ all += $2 } END { print all }' "$mpich_hosts")
  start=(mpirun -f "$mpich_hosts" -n "$processes" -bind-to numa)
fi

# Exit code 75: stopped early but saved; the same command goes on. After a fault it is started again
# here, unless nothing comes of it, or a signal asked it to stop.
asked=
trap 'asked=1; kill -TERM "$child" 2>/dev/null || true' INT TERM HUP
while
  "${start[@]}" "$python" launch/train.py "$@" &
  child=$!
  status=0
  wait "$child" || status=$?
  while kill -0 "$child" 2>/dev/null; do # a signal has ended the wait
    status=0
    wait "$child" || status=$?
  done
  [ -z "$asked" ] && [ "$status" -ne 75 ] && "$python" launch/cluster/go_on.py "$status" "$@"
do :; done
exit "$status"
