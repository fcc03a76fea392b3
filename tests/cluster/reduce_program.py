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
    """Ask all behind sums that are in flight; the last rank wishes it once."""
    import jax
    import jax.numpy as jnp
    from jax.sharding import NamedSharding
    from jax.sharding import PartitionSpec as P

    from fugaku_jax.collectives.votes import ask_all

    mesh = jax.make_mesh((jax.device_count(),), ("all",))
    x = jax.device_put(jnp.ones(jax.device_count()), NamedSharding(mesh, P("all")))
    mean = jax.jit(lambda x: x + jnp.mean(x), out_shardings=x.sharding)
    is_last, answers = jax.process_index() == jax.process_count() - 1, []
    for step in range(20):
        x = mean(x)
        answers.append(ask_all(is_last and step == 7))
    wished = [step for step, answer in enumerate(answers) if answer()]
    print(f"wished at {wished}, {x.addressable_shards[0].data[0]:.0f}", flush=True)


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
