#!/bin/bash
# Run a command on four hosts that do not exist: network namespaces node0 … node3, each with an
# address and a name of its own, wired through one bridge. Run it in fresh namespaces, which take
# everything with them when they end:
#
#   unshare --map-root-user --net --mount --uts four_hosts.sh HOSTS_FILE COMMAND…
#
# HOSTS_FILE becomes /etc/hosts of all four. The exit code is that of the first host that failed.
set -euo pipefail
hosts_file=$1
shift

mount -t tmpfs tmpfs /run # where ip keeps its namespaces
mount --bind "$hosts_file" /etc/hosts
ip link add bridge0 type bridge
ip link set bridge0 up
for i in 0 1 2 3; do
  ip netns add "node$i"
  ip link add "port$i" type veth peer name eth0 netns "node$i"
  ip link set "port$i" master bridge0 up
  ip -n "node$i" link set lo up
  ip -n "node$i" addr add "10.7.0.$((i + 1))/24" dev eth0
  ip -n "node$i" link set eth0 up
done

jobs=()
for i in 0 1 2 3; do
  export FUGAKU_JAX_COORDINATOR=node0:7777 FUGAKU_JAX_PROCESSES=4 FUGAKU_JAX_PROCESS=$i
  ip netns exec "node$i" unshare --uts \
    bash -c 'hostname "$1" && exec "${@:2}"' bash "node$i" "$@" &
  jobs+=($!)
done
code=0
for job in "${jobs[@]}"; do
  wait "$job" || { status=$? && [ "$code" -ne 0 ] || code=$status; }
done
exit "$code"
