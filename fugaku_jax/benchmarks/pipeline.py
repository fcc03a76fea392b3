"""How long the stages of a pipeline idle, beside what the table of its schedule says.

The processes are real and joined over gloo, and the executor is the trainer's own; only the layers
do not compute but sleep, since this machine may have fewer cores than there are stages. What counts
as work is the time really slept; all else, exchanges and the executor included, is idle.

As a program, this module is one of the processes: `launch/cluster/local.py -n 4 -- python -m
fugaku_jax.benchmarks.pipeline '{...}'`.
"""

import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from fugaku_jax.benchmarks.processes import print_joined, run_joined
from fugaku_jax.layout.rules import Rules


def run(
    processes: Sequence[int] = (2, 4),
    micro_batches: Sequence[int] = (4, 8),
    forward_seconds: float = 0.2,
    passes: int = 3,
    say: Callable[[str], object] = lambda _: None,
) -> list[dict[str, Any]]:
    """Measure every schedule.

    Args:
        processes: numbers of processes; each is one stage.
        micro_batches: numbers of micro-batches, each with every number of processes.
        forward_seconds: what a chunk takes forward for a micro-batch; other work by `COSTS`. An
            exchange takes some 5 ms where others use the cores, and a tick has up to two.
        passes: timed passes of each schedule.
        say: is told what was measured.

    Returns:
        a dictionary for each schedule, number of stages and of micro-batches: `kind`, `stages`,
        `micro_batches`; `contender`, them in one; `idle_measured`, the share of time that stages
        idle in the median pass, and `idle_measured_min` and `_max` over passes; `idle_modelled`,
        by the table, and `idle_formula`; `ratio` of the measured to the modelled;
        `pass_seconds` of the median pass; and `load`, the machine's in the last minute.

    Raises:
        RunError: a process failed.
    """
    rows = []
    for count in processes:
        arguments = {
            "micro_batches": micro_batches,
            "forward_seconds": forward_seconds,
            "passes": passes,
        }
        program = __name__, json.dumps(arguments)
        for row in run_joined(f"A pipeline of {count} processes", count, *program):
            rows.append(row)
            say(
                f"{row['contender']}: idle {row['idle_measured']:.3f}, "
                f"modelled {row['idle_modelled']:.3f}"
            )
    return rows


def measure(
    rules: Rules, kind: str, micro_batches: int, chunks: int, forward_seconds: float, passes: int
) -> dict[str, Any]:
    """Measure a schedule on the mesh that is active; all processes must call this alike.

    A pass begins when all stages are there, and ends when the last of them is done. The rules say
    which axes of the mesh carry the stages.
    """
    import jax
    import jax.numpy as jnp
    import numpy as np
    from jax.sharding import PartitionSpec

    from fugaku_jax.benchmarks.sleeping_stages import SleepingStages
    from fugaku_jax.pipeline.duration import bubble, formula_bubble
    from fugaku_jax.pipeline.executor import Executor
    from fugaku_jax.pipeline.schedule import make_schedule
    from fugaku_jax.pipeline.slots import plan_slots

    axes, stages = rules.pipeline, rules.parts("stage")
    schedule = make_schedule(kind, stages, micro_batches, chunks)
    layers = np.arange(chunks * stages).reshape(chunks, stages, 1).swapaxes(0, 1)
    sleeper = SleepingStages(forward_seconds)

    def one_pass() -> Any:
        done = Executor(
            sleeper,
            schedule,
            plan_slots(schedule),
            jnp.zeros(chunks),
            jnp.float32(0),
            layers,
            axes,
            jnp.float32(1),
        ).run()
        return done.loss[None], done.d_weights[None], done.d_shared[None]

    split = PartitionSpec(axes)

    def compiled(function: Callable, in_specs: Any, out_specs: Any) -> Callable:
        mapped = jax.shard_map(function, in_specs=in_specs, out_specs=out_specs, check_vma=False)
        return jax.jit(mapped)

    run_pass = compiled(one_pass, (), split)
    gather = compiled(lambda x: jax.lax.all_gather(x, axes, tiled=True), split, PartitionSpec())

    def of_all(numbers: list[float]) -> np.ndarray:
        """Wait for all stages; return the numbers of each."""
        sharding = jax.sharding.NamedSharding(jax.sharding.get_mesh(), split)
        mine = np.array([numbers], np.float32)
        return np.asarray(gather(jax.make_array_from_process_local_data(sharding, mine)))

    sleeper.awake = True
    jax.block_until_ready(run_pass())
    sleeper.awake = False
    idle, seconds = [], []
    for _ in range(passes):
        of_all([0.0, 0.0])
        sleeper.slept, start = 0.0, time.perf_counter()
        jax.block_until_ready(run_pass())
        slept, took = of_all([sleeper.slept, time.perf_counter() - start]).T
        seconds.append(float(took.max()))
        idle.append(float(1 - slept.mean() / took.max()))
    modelled = bubble(schedule)
    return {
        "contender": f"{kind} S={stages} M={micro_batches}",
        "kind": kind,
        "stages": stages,
        "micro_batches": micro_batches,
        "idle_measured": statistics.median(idle),
        "idle_measured_min": min(idle),
        "idle_measured_max": max(idle),
        "idle_modelled": modelled,
        "idle_formula": formula_bubble(kind, stages, micro_batches, chunks),
        "ratio": statistics.median(idle) / modelled,
        "pass_seconds": statistics.median(seconds),
        "load": os.getloadavg()[0],
    }


def measure_all(
    micro_batches: Sequence[int], forward_seconds: float, passes: int
) -> Iterator[dict[str, Any]]:
    """Measure every schedule on a pipeline of all processes, which are joined."""
    from fugaku_jax.config import MeshConfig
    from fugaku_jax.layout.mesh import active, make_mesh
    from fugaku_jax.pipeline.schedule import KINDS

    mesh, rules = make_mesh(MeshConfig(data=1, pipeline=-1))
    with active(mesh):
        for kind in KINDS:
            for count in micro_batches:
                chunks = 2 if kind == "interleaved" else 1
                yield measure(rules, kind, count, chunks, forward_seconds, passes)


def main() -> None:
    """Measure as one of the processes."""
    print_joined(measure_all(**json.loads(sys.argv[1])))


if __name__ == "__main__":
    main()
