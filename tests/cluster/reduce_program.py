"""Join the other processes, agree, and add up over all of them: run by the tests of this folder.

Each rank puts its rank + 1 on each of its devices; what is printed is their sum, on every rank.
"""

import os
import signal
import sys
import time

from fugaku_jax.cluster.hosts import RendezvousError, agree, find_hosts, join, leave
from fugaku_jax.errors import InputError


def reduce() -> None:
    """Sum over all devices of all processes, by an all-reduce that XLA must send over the wire."""
    import jax
    import numpy as np
    from jax.sharding import AxisType, NamedSharding
    from jax.sharding import PartitionSpec as P

    mesh = jax.make_mesh((jax.device_count(),), ("all",), axis_types=(AxisType.Explicit,))
    rows = NamedSharding(mesh, P("all"))
    mine = np.full(jax.local_device_count(), jax.process_index() + 1.0, np.float32)
    everywhere = jax.make_array_from_process_local_data(rows, mine)
    add = jax.jit(
        jax.shard_map(lambda x: jax.lax.psum(x, "all"), mesh=mesh, in_specs=P("all"), out_specs=P())
    )
    total = add(everywhere)
    print(
        f"sum {float(total.addressable_shards[0].data[0])} over {jax.device_count()} devices of "
        f"{jax.process_count()} processes",
        flush=True,
    )


def ask() -> None:
    """Wish, decide and refuse together, many times; print what came of it, and what keys are left.

    The last rank wishes it once, and is the only one to wish that all stop.
    """
    import jax
    from jax._src import distributed

    from fugaku_jax.cluster.decisions import CommonStop, anywhere, decided, wait_for_all

    rank, count = jax.process_index(), jax.process_count()
    wished = [turn for turn in range(20) if anywhere(rank == count - 1 and turn == 7)]
    sums = {
        decided("sum", [rank, turn], lambda said: [sum(map(sum, said))])[0] for turn in range(9)
    }
    print(f"wished at {wished}, sums {sorted(sums)}", flush=True)

    def refuse(said: list[int]) -> None:
        raise InputError(f"of {said}")

    try:
        decided("refusal", rank, refuse)
    except InputError as error:
        print(f"refused {error}", flush=True)
    stop = CommonStop()
    for step in range(1, 20):
        wait_for_all("step")  # as a step's collectives have all wait for each other
        if stop.is_due(step, rank == count - 1 and step >= 7):
            break
    print(f"stop after {step}", flush=True)
    anywhere(False)
    wait_for_all("end")
    if rank == 0:
        left = distributed.global_state.client.key_value_dir_get("fugaku_jax/")
        print(f"left {len(left)}", flush=True)


def main(deed: str = "", culprit: str = "") -> int:
    """Do what all ranks do; the rank `culprit` comes late, differs, fails or stops."""
    hosts = find_hosts(os.environ)
    mine = hosts is not None and culprit == str(hosts.rank)
    if deed == "late" and mine:
        time.sleep(2)
    if deed == "absent" and mine:
        time.sleep(3600)
    seed = 7 if deed == "differ" and mine else 1
    agree(hosts, "configuration", {"model": {"n_layers": 2}, "training": {"seed": seed}})
    watchdog = join(hosts)
    reduce()
    if deed == "stop":
        watchdog.watch(1.0, step=3)
        time.sleep(2)  # it says so every second
        if mine:
            os.kill(os.getpid(), signal.SIGSTOP)
        with watchdog.blaming():
            reduce()
    if deed == "late":
        ask()
    if deed == "fail" and mine:
        raise InputError("this rank's own file is missing.")
    if deed == "fail":
        time.sleep(3600)
    return 0


if __name__ == "__main__":
    try:
        code = main(*sys.argv[1:])
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 2
    except RendezvousError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 1
    leave(code)
