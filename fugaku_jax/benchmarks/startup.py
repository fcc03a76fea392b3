"""How long many processes take from start to first step, and with how many each is connected.

All are on this machine, replicas of a tiny model on a small torus; so what is measured is what
joining costs, not computing. Times of many processes on few cores are those of the cores: it is
their growth, and the sockets, that say something of other machines.

As a program, this module is one of the processes: `launch/cluster/local.py -n 4 -- python -m
fugaku_jax.benchmarks.startup '{...}'`.
"""

import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fugaku_jax.benchmarks.processes import print_joined, run_joined
from fugaku_jax.errors import InputError

SHAPES: Mapping[int, str] = {
    2: "2x1x1x1x1x1",
    4: "2x1x2x1x1x1",
    8: "2x2x2x1x1x1",
    16: "4x2x2x1x1x1",
    32: "4x2x4x1x1x1",
    64: "4x4x4x1x1x1",
}
"""Processes, and the torus that they are."""
REPEATS = 20


def run(
    counts: Sequence[int] = (4, 8, 16, 32),
    collectives: Sequence[str] = ("flat", "torus"),
    say: Callable[[str], object] = lambda _: None,
) -> list[dict[str, Any]]:
    """Start so many processes, with sums in one group (flat) and between neighbours (torus).

    Args:
        counts: processes, of `SHAPES`.
        collectives: how sums are taken.
        say: is told what was measured.

    Returns:
        a dictionary for each: `contender`, `processes`, `collective`; `joined_seconds`,
        `compiled_seconds` and `first_step_seconds`, all since the start of the first process, as
        rank 0 has them; `sockets` that rank 0 has open then, and `sockets_of_others`, the most that
        another process has; milliseconds of rank 0 in which all wait for each other, vote, decide
        something, and ask whether all stop: `barrier_ms`, `vote_ms`, `decision_ms`, `stop_ms`; and
        `load`, the machine's in the last minute.

    Raises:
        InputError: there is no shape for so many.
        RunError: a process failed.
    """
    if unknown := sorted(set(counts) - SHAPES.keys()):
        raise InputError(
            f"--processes is {unknown[0]}, but it must be of {', '.join(map(str, SHAPES))}."
        )
    rows = []
    for count, collective in itertools.product(counts, collectives):
        job = {"started": time.time(), "shape": SHAPES[count], "collective": collective}
        # One thread each, and a step that is soon compiled: neither is what is measured.
        flags = "--xla_cpu_multi_thread_eigen=false --xla_backend_optimization_level=0"
        variables = {"XLA_FLAGS": flags, "OMP_NUM_THREADS": "1"}
        row = run_joined(
            f"{count} processes", count, __name__, json.dumps(job), variables=variables
        )[-1]
        rows.append({"contender": f"{count}, {collective}"} | row | {"load": os.getloadavg()[0]})
        say(f"{count} processes, {collective}: {row['first_step_seconds']:.1f} s to the first step")
    return rows


def _measure(job: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Take a step together with the other processes; rank 0 tells what it took."""
    joined = time.time() - job["started"]
    import jax
    import numpy as np

    from fugaku_jax.cluster.decisions import CommonStop, anywhere, decided, wait_for_all
    from fugaku_jax.config import (
        Config,
        MeshConfig,
        ModelConfig,
        OptimizerConfig,
        TrainingConfig,
    )
    from fugaku_jax.data.batch import Batch
    from fugaku_jax.models.layout import make_layout
    from fugaku_jax.training.state import init_state
    from fugaku_jax.training.step import make_train_step

    count = jax.process_count()
    config = Config(
        model=ModelConfig(vocab_size=256, n_layers=1, d_model=64, n_heads=2, sequence_length=32),
        optimizer=OptimizerConfig(learning_rate=1e-3),
        training=TrainingConfig(steps=10, batch_size=count),
        mesh=MeshConfig(shape=job["shape"], collective=job["collective"]),
    )
    layout = make_layout(config)
    with layout.active():
        state = init_state(layout)
        step = make_train_step(layout).lower(state, layout.batch).compile()
        wait_for_all("compiled")
        compiled = time.time() - job["started"]
        shape = layout.batch.tokens.shape
        rows = np.arange(np.prod(shape), dtype=np.int32).reshape(shape) % 256
        tokens = jax.make_array_from_callback(shape, layout.rows, lambda index: rows[index])
        _, metrics = step(state, Batch(tokens))
        jax.block_until_ready(metrics)
    first_step = time.time() - job["started"]
    sockets = decided("sockets", _sockets(), lambda said: [said[0], max(said[1:])])
    stop = CommonStop()
    turn = itertools.count(1)
    costs = {
        "barrier_ms": _milliseconds(lambda: wait_for_all("timed")),
        "vote_ms": _milliseconds(lambda: anywhere(False)),
        "decision_ms": _milliseconds(lambda: decided("timed", 1.5, sum)),
        "stop_ms": _milliseconds(lambda: stop.is_due(next(turn), False)),
    }
    if jax.process_index() == 0:
        yield {
            "processes": count,
            "collective": job["collective"],
            "joined_seconds": joined,
            "compiled_seconds": compiled,
            "first_step_seconds": first_step,
            "sockets": sockets[0],
            "sockets_of_others": sockets[1],
        } | costs


def _milliseconds(call: Callable[[], object]) -> float:
    call()
    begun = time.perf_counter()
    for _ in range(REPEATS):
        call()
    return (time.perf_counter() - begun) / REPEATS * 1e3


def _sockets() -> int:
    """Count the sockets that this process has open."""
    links = []
    for each in Path("/proc/self/fd").iterdir():
        try:
            links.append(os.readlink(each))
        except OSError:  # that which lists the folder
            continue
    return sum(link.startswith("socket:") for link in links)


if __name__ == "__main__":
    print_joined(_measure(json.loads(sys.argv[1])))
