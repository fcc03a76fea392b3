"""A torus in SimGrid, and collectives on it: messages between hosts, timed by its own flow model.

python tests/tofu/simgrid_torus.py < case.json    prints the simulated seconds of each collective

Nothing of this package is imported. The torus is SimGrid's own zone, with its routes; a chunk is an
actor that starts the messages of all hosts for a round, waits until all have come, and goes on.
A case: `shape`, `bandwidth`, `latency` of a link, `bytes`; and `collectives`, each
`{"walks": [[share, [axis, …], backward], …], "chunks": n, "group": false}` for an all-reduce along
the axes that the walks name, in all groups or only in that of the first host; or
`{"ring": [axis, …]}` for one ring through all hosts along these, row by row.
"""

import itertools
import json
import math
import os
import sys

import simgrid


def build(shape, bandwidth, latency):
    """Return the hosts of a torus by coordinate. Axes of one node are left out of SimGrid's."""
    long = [axis for axis, size in enumerate(shape) if size > 1]
    hosts = {}

    def place(zone, _, number):
        full = [0] * len(shape)
        for axis in long:  # routes count hosts the first axis fastest; `_` counts them otherwise
            number, full[axis] = divmod(number, shape[axis])
        host = zone.create_host("node-" + "-".join(map(str, full)), 1e9)
        hosts[tuple(full)] = host
        return host.netpoint, None

    root = simgrid.NetZone.create_full_zone("root")
    zone = simgrid.NetZone.create_torus_zone(
        "torus",
        root,
        [shape[axis] for axis in long],
        simgrid.ClusterCallbacks(place, None, None),
        bandwidth,
        latency,
        simgrid.Link.SharingPolicy.SPLITDUPLEX,
    )
    zone.seal()
    root.seal()
    assert len(hosts) == math.prod(shape)
    return hosts


def round_of(hosts, target, size):
    """All hosts send at once, each to the host at the coordinate that `target` gives."""
    simgrid.Comm.wait_all(
        [simgrid.Comm.sendto_async(host, hosts[target(at)], size) for at, host in hosts.items()]
    )


def along(axis, step, length):
    """The coordinate that follows on a ring along an axis."""
    return lambda at: (*at[:axis], (at[axis] + step) % length, *at[axis + 1 :])


def next_in_rows(axes, shape):
    """The coordinate that follows in row-major order over some axes."""

    def following(at):
        at = list(at)
        for axis in reversed(axes):
            at[axis] = (at[axis] + 1) % shape[axis]
            if at[axis]:
                break
        return tuple(at)

    return following


def walk(hosts, shape, axes, backward, size, turns):
    """All-reduce of a chunk: reduce-scatter axis by axis, then all-gather the same way back.

    Chunks of a walk go through its axes one behind the other: `turns` has a lock an axis and way.
    """
    left = itertools.accumulate((shape[axis] for axis in axes), lambda x, n: x / n, initial=size)
    parts = zip(axes, left, strict=False)
    legs = [(axis, shape[axis], part / shape[axis]) for axis, part in parts]
    for turn, (axis, length, part) in zip(turns, legs + legs[::-1], strict=True):
        turn.lock()
        for _ in range(length - 1):
            round_of(hosts, along(axis, -1 if backward else 1, length), int(part))
        turn.unlock()


def run(case, collective, hosts, times):
    """Simulate one collective, and note what it took."""
    start = simgrid.Engine.clock
    shape = case["shape"]
    if "ring" in collective:
        axes = collective["ring"]
        count = math.prod(shape[axis] for axis in axes)
        part = int(case["bytes"] / count)
        for _ in range(2):
            round_of(hosts, next_in_rows(axes, shape), part)
        # All rounds of a ring are alike, so two of them tell what all take.
        times.append((simgrid.Engine.clock - start) / 2 * 2 * (count - 1))
        return
    if collective["group"]:  # what lies along other axes neither helps nor disturbs it
        along_them = {axis for _, axes, _ in collective["walks"] for axis in axes}
        others = [axis for axis in range(len(shape)) if axis not in along_them]
        hosts = {at: host for at, host in hosts.items() if not any(at[axis] for axis in others)}
    actors = []
    for share, axes, backward in collective["walks"]:
        size = case["bytes"] * share / collective["chunks"]
        turns = [simgrid.Mutex() for _ in range(2 * len(axes))]
        for _ in range(collective["chunks"]):
            given = hosts, shape, axes, backward, size, turns
            actors.append(simgrid.Actor.create("walk", next(iter(hosts.values())), walk, *given))
    for actor in actors:
        actor.join()
    times.append(simgrid.Engine.clock - start)


def main():
    """Read a case, simulate, print."""
    # SimGrid hands over from thread to thread, which is several times as fast on one core.
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    case = json.load(sys.stdin)
    options = "network/model:CM02", "network/crosstraffic:0", "network/TCP-gamma:0"
    engine = simgrid.Engine(
        [sys.argv[0], "--log=root.thres:error", *(f"--cfg={o}" for o in options)]
    )
    hosts = build(case["shape"], case["bandwidth"], case["latency"])
    times = []

    def all_of_them():
        for axis, length in enumerate(case["shape"]):
            before = simgrid.Engine.clock
            if length > 1:  # a neighbour must be one link away, and have that for itself
                round_of(hosts, along(axis, 1, length), 1)
                one = case["latency"] + 1 / case["bandwidth"]
                assert math.isclose(simgrid.Engine.clock - before, one, rel_tol=1e-6)
        for collective in case["collectives"]:
            run(case, collective, hosts, times)

    simgrid.Actor.create("all", hosts[(0,) * len(case["shape"])], all_of_them)
    engine.run()
    print(json.dumps(times))


if __name__ == "__main__":
    main()
