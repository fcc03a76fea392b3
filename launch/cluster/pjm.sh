#!/bin/bash
# Fugaku (PJM):  pjsub launch/cluster/pjm.sh
#
# The size of Fugaku-LLM's 13B run: 48 x 6 x 48 = 13,824 nodes, folded from the six-dimensional
# torus. Written from that run's published scripts; adapt what is marked, and try a few nodes first:
# node=2x3x2, and nodes=12 below.
#PJM -L "node=48x6x48:torus:strict-io"
#PJM -L "rscunit=rscunit_ft01,rscgrp=large"
#PJM -L "elapse=24:00:00"
#PJM -L "freq=2200"
#PJM -L "proc-openfd=65536"
#PJM --mpi "max-proc-per-node=1"
#PJM --llio "localtmp-size=30Gi"
#PJM -x "PJM_LLIO_GFSCACHE=/vol0004"
#PJM -g "GROUP"
#PJM -j
#PJM -S
# Adapt: rscgrp, elapse (below, too), the volumes of PJM_LLIO_GFSCACHE, GROUP.
set -euo pipefail

nodes=13824
per_node=1                    # 1: a process a node; 4: one a core group (as max-proc-per-node)
elapse=$((24 * 3600))        # as above, in seconds: PJM does not tell a job when it ends
recipe=(fugaku_llm_13b --run-dir runs/fugaku_llm_13b --training.stop-before-limit 1800)
environment=environment.tar   # what .venv was packed into, for A64FX
rank_map=rank_map.txt         # a line "(x,y,z)" a rank: the node that it runs on

FUGAKU_JAX_JOB_END=$(($(date +%s) + elapse))
export FUGAKU_JAX_JOB_END
export FUGAKU_JAX_PROCESSES=$((nodes * per_node))
# gloo joins some hundreds of processes at most; MPI takes one device a process (docs/cluster.md).
export FUGAKU_JAX_COLLECTIVES=mpi
export MPITRAMPOLINE_LIB=$PWD/libmpiwrapper.so
export FUGAKU_JAX_TIMEOUT=1800
export PLE_MPI_STD_EMPTYFILE=off   # no file for a rank that says nothing
output="output.$PJM_JOBID"
mkdir -p "$output"

# Staging: thousands of nodes must not read thousands of small files. Each is copied once to the
# second-layer storage near every node, and the environment unpacked on the node's own.
llio_transfer "$environment" "$MPITRAMPOLINE_LIB"
find launch configs fugaku_jax -name '*.py' -exec llio_transfer {} +
mpirun -n "$FUGAKU_JAX_PROCESSES" --vcoordfile "$rank_map" -std-proc "$output/unpack" \
  bash -c '[ "$PLE_RANK_ON_NODE" -ne 0 ] || tar -xf "$0" -C "$PJM_LOCALTMP"' "$environment"

# The rank map decides where rank 0 runs, so it is asked for its address.
head -n 1 "$rank_map" > "$output/first.txt"
mpirun -n 1 --vcoordfile "$output/first.txt" -stdout "$output/address.txt" hostname -i
read -r address _ < "$output/address.txt"
export FUGAKU_JAX_COORDINATOR="$address:61500"

# Memory nodes 4 to 7 are the core groups 0 to 3, with the cores 12 to 59.
status=0
PER_NODE=$per_node mpirun -n "$FUGAKU_JAX_PROCESSES" --vcoordfile "$rank_map" \
  -std-proc "$output/%/1000r/rank" \
  bash -c '
    groups=4-7
    [ "$PER_NODE" -eq 1 ] || groups=$((4 + PLE_RANK_ON_NODE))
    exec numactl --cpunodebind="$groups" --membind="$groups" \
      "$PJM_LOCALTMP/.venv/bin/python" launch/train.py "$@"
  ' bash "${recipe[@]}" || status=$?

# Stopped but saved, or ended by a fault: 75 has the next step job go on, unless nothing comes of it
# (launch/cluster/pjm_steps.sh).
if mpirun -n 1 --vcoordfile "$output/first.txt" "$PJM_LOCALTMP/.venv/bin/python" \
  launch/cluster/go_on.py "$status" "${recipe[@]}"; then
  status=75
elif [ "$status" -eq 75 ]; then
  status=1
fi

find launch configs fugaku_jax -name '*.py' -exec llio_transfer --purge {} +
llio_transfer --purge "$environment" "$MPITRAMPOLINE_LIB"

exit "$status"
