"""Weak scaling of the training step from one process to two, and the time of each collective.

Every process has one core and as many rows of the batch, so two do twice the work of one; they
are joined over gloo as the processes of a cluster are. Two that are not joined tell what the
machine itself loses. The contenders take turns, and one process alone gets each core in turn, so
that a machine that is disturbed is so for all.

As a program, this module is one of the processes: `launch/cluster/local.py -n 2 -- python -m
fugaku_jax.benchmarks.scaling step '{...}'`.
"""

import dataclasses
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from fugaku_jax.benchmarks.processes import print_joined, run_joined
from fugaku_jax.config import Config, MeshConfig, ModelConfig, OptimizerConfig, TrainingConfig
from fugaku_jax.processor import available_cores

CONTENDERS = "1 process", "2 processes, joined", "2 processes, apart"


@dataclass(frozen=True)
class ScalingShape:
    """The step of a process: AdamW, gradients clipped to a global norm of 1, no dropout."""

    n_layers: int = 4
    d_model: int = 384
    n_heads: int = 6
    sequence_length: int = 256
    rows: int = 8
    """Samples of each process."""
    vocab_size: int = 4096

    @property
    def tokens(self) -> int:
        """Tokens of a process a step."""
        return self.rows * self.sequence_length


def run(
    rounds: int = 3,
    steps: int = 8,
    shape: ScalingShape | None = None,
    say: Callable[[str], object] = lambda _: None,
) -> list[dict[str, Any]]:
    """Measure the step on one process, on two that share a batch, and on two that share nothing.

    The last are the machine's own ceiling: cores that disturb each other do so there too.

    Args:
        rounds: how often each contender runs.
        steps: timed steps of each run.
        shape: the model and the rows of a process; those of `ScalingShape()` if not given.
        say: is told what was measured.

    Returns:
        a dictionary for each: `contender`, `processes`; `tokens_per_second_per_core` of the
        median step, and `_min` and `_max` of the slowest and the fastest; `step_seconds` of the
        median step, and `cpu_seconds` of it that rank 0 had its core for (the rest is waiting,
        or others' work); `timed_steps`; `efficiency`, the tokens a second a core over those of
        one process in the same round, the median of rounds, with `efficiency_min` and `_max`;
        and `load`, the machine's in the last minute.

    Raises:
        RunError: a process failed.
    """
    shape = shape or ScalingShape()
    cores = available_cores()
    cores = [cores[0], cores[-1]]  # the same twice where there is only one
    measured: dict[str, list[dict[str, list[float]]]] = {name: [] for name in CONTENDERS}
    with tempfile.TemporaryDirectory() as cache:
        arguments = {"shape": dataclasses.asdict(shape), "steps": steps}

        def alone(core: int) -> dict[str, list[float]]:
            return _run_processes("step", 1, arguments, [core], cache)[0]

        def apart() -> dict[str, list[float]]:
            with ThreadPoolExecutor(2) as threads:
                both = list(threads.map(alone, cores))
            return {key: both[0][key] + both[1][key] for key in both[0]}

        def joined() -> dict[str, list[float]]:
            return _run_processes("step", 2, arguments, cores, cache)[0]

        for number in range(rounds):
            # Which goes first changes, and so does the core that one process has.
            tasks = dict(
                zip(CONTENDERS, (lambda n=number: alone(cores[n % 2]), joined, apart), strict=True)
            )
            for name in CONTENDERS if number % 2 == 0 else reversed(CONTENDERS):
                row = tasks[name]()
                measured[name].append(row)
                speed = shape.tokens / statistics.median(row["seconds"])
                say(f"{name}: {speed:.0f} tokens/s a core")
    return [_row(shape, measured, name) for name in CONTENDERS]


def run_collectives(
    processes: Sequence[int] = (2, 4),
    megabytes: float = 8,
    rounds: int = 5,
    say: Callable[[str], object] = lambda _: None,
) -> list[dict[str, Any]]:
    """Measure collectives between two processes, and between four of two devices on a torus of 2×2.

    Args:
        processes: which of the two.
        megabytes: fp32 on each device, before it is scattered or after it is gathered (10⁶ bytes).
        rounds: timed calls of each.
        say: is told what was measured.

    Returns:
        the rows of `measure` of `collectives.py`, with `processes` and the machine's `load`.

    Raises:
        RunError: a process failed.
    """
    rows = []
    for count in processes:
        devices = count // 2
        arguments = {"devices": devices, "megabytes": megabytes, "rounds": rounds}
        found = _run_processes("collectives", count, arguments, devices=devices)
        for row in found:
            row["contender"] = f"{_count(count)}: {row['contender']}"
            rows.append(row | {"processes": count, "load": os.getloadavg()[0]})
            say(f"{row['contender']}: {row['seconds']:.4f} s")
    return rows


def _run_processes(
    task: str,
    processes: int,
    arguments: dict[str, Any],
    cores: Sequence[int] | None = None,
    cache: str = "",
    devices: int = 1,
) -> list[dict[str, Any]]:
    """Start processes on some cores, and return what rank 0 prints as JSON."""
    caching = {"JAX_COMPILATION_CACHE_DIR": cache} if cache else {}
    pinned = ["taskset", "-c", ",".join(map(str, cores))] if cores else []
    program = __name__, task, json.dumps(arguments)
    options = {"devices": devices, "variables": caching, "before": pinned}
    return run_joined(_count(processes), processes, *program, **options)


def _count(processes: int) -> str:
    return f"{processes} process{'es' if processes > 1 else ''}"


def _row(
    shape: ScalingShape, measured: dict[str, list[dict[str, list[float]]]], contender: str
) -> dict[str, Any]:
    own = measured[contender]
    seconds = [s for run in own for s in run["seconds"]]
    base = (statistics.median(run["seconds"]) for run in measured[CONTENDERS[0]])
    ratios = [a / statistics.median(run["seconds"]) for a, run in zip(base, own, strict=True)]
    return {
        "contender": contender,
        "processes": int(contender[0]),
        "tokens_per_second_per_core": shape.tokens / statistics.median(seconds),
        "tokens_per_second_per_core_min": shape.tokens / max(seconds),
        "tokens_per_second_per_core_max": shape.tokens / min(seconds),
        "step_seconds": statistics.median(seconds),
        "cpu_seconds": statistics.median(s for run in own for s in run["cpu"]),
        "timed_steps": len(seconds),
        "efficiency": statistics.median(ratios),
        "efficiency_min": min(ratios),
        "efficiency_max": max(ratios),
        "load": os.getloadavg()[0],
    }


def run_step(
    processes: int, shape: ScalingShape, steps: int, mesh: dict[str, int]
) -> dict[str, Any]:
    """Measure the steps of processes that share all cores, and the parts of rank 0's.

    Args:
        processes: how many.
        shape: the model, and the rows of each replica.
        steps: timed ones.
        mesh: `data` and `tensor`, whose product is `processes`.

    Returns:
        `seconds` of each; and `parts`, those of `step_parts.measured_parts` of further ones.

    Raises:
        RunError: a process failed.
    """
    arguments = {"shape": dataclasses.asdict(shape), "steps": steps, "mesh": mesh, "parts": True}
    return _run_processes("step", processes, arguments)[0]


def step_config(shape: dict[str, Any], replicas: int, mesh: dict[str, Any]) -> Config:
    """Return the run of a step.

    Args:
        shape: the fields of a `ScalingShape`.
        replicas: that have so many rows each.
        mesh: degrees of parallelism, and what else there is in `MeshConfig`.
    """
    model = {key: value for key, value in shape.items() if key != "rows"}
    return Config(
        model=ModelConfig(**model),
        optimizer=OptimizerConfig(learning_rate=1e-4),
        training=TrainingConfig(steps=1000, batch_size=shape["rows"] * replicas),
        mesh=MeshConfig(**mesh),  # pyrefly: ignore
    )


def time_steps(
    shape: dict[str, Any], steps: int, mesh: dict[str, int] | None = None, parts: bool = False
) -> Iterator[dict[str, Any]]:
    """Take steps on all processes; yield the wall and CPU seconds of the timed.

    Args:
        shape: the fields of a `ScalingShape`.
        steps: timed ones.
        mesh: degrees of parallelism; data alone if not given.
        parts: also measure what the parts of a step take.
    """
    import jax
    import numpy as np

    from fugaku_jax.benchmarks.step_parts import measured_parts
    from fugaku_jax.cluster.hosts import agree, find_hosts
    from fugaku_jax.data.batch import Batch
    from fugaku_jax.models.layout import make_layout
    from fugaku_jax.training.state import init_state
    from fugaku_jax.training.step import make_train_step

    mesh = mesh or {"data": jax.process_count()}
    config = step_config(shape, mesh["data"], mesh)
    rows = config.training.batch_size
    layout = make_layout(config)
    size = (1, rows, shape["sequence_length"] + 1)
    tokens = np.random.default_rng(0).integers(0, shape["vocab_size"], size, np.int32)
    batch = Batch(jax.make_array_from_callback(size, layout.rows, tokens.__getitem__))
    state = init_state(layout)
    step = make_train_step(layout).lower(state, batch).compile()
    # One rank may find it in the cache that another has to compile; gloo waits for 30 s only.
    agree(find_hosts(os.environ), "compiled step", {})
    seconds, cpu = [], []
    for _ in range(steps + 2):  # the first connects
        start, cpu_start = time.perf_counter(), time.process_time()
        state, _ = jax.block_until_ready(step(state, batch))
        seconds.append(time.perf_counter() - start)
        cpu.append(time.process_time() - cpu_start)
    found: dict[str, Any] = {"seconds": seconds[2:], "cpu": cpu[2:]}
    if parts:

        def call() -> None:
            nonlocal state
            state, _ = jax.block_until_ready(step(state, batch))

        found["parts"] = measured_parts(step.as_text() or "", call)
    yield found


def time_collectives(devices: int, megabytes: float, rounds: int) -> Iterator[dict[str, Any]]:
    """Measure on the torus of all processes, each a node of several devices; yield the rows."""
    import jax

    from fugaku_jax.benchmarks.collectives import measure
    from fugaku_jax.layout.mesh import active, make_mesh

    shape = {2: "2x1x1x1x1x1", 4: "2x2x1x1x1x1"}[jax.process_count()]
    mesh, rules = make_mesh(MeshConfig(data=-1, tensor=devices, local=devices, shape=shape))
    with active(mesh):
        yield from measure(rules.data, megabytes, rounds)


def main() -> None:
    """Do a task as one of the processes."""
    task = {"step": time_steps, "collectives": time_collectives}[sys.argv[1]]
    print_joined(task(**json.loads(sys.argv[2])))


if __name__ == "__main__":
    main()
