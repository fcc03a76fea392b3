"""A training step of two nodes on one slow link: whether layers compute while gradients travel.

The contenders, `flat` over gloo and `torus`, take the same steps in turn, in the same processes.
The picture is of rank 0's last backward pass by `torus`: what its sums and its layers did, when.

As a program, this module is what makes the link, and each of the nodes: `python -m
fugaku_jax.benchmarks.overlap wire '{…}'`.
"""

import dataclasses
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fugaku_jax.benchmarks.processes import print_joined, run_module
from fugaku_jax.benchmarks.scaling import ScalingShape, step_config
from fugaku_jax.benchmarks.wiring import namespaces, on_all_nodes
from fugaku_jax.collectives.started import Journey

CONTENDERS = "flat", "torus"
SHAPE = ScalingShape(
    n_layers=6, d_model=128, n_heads=4, sequence_length=128, rows=8, vocab_size=512
)


def run(
    megabits: float = 100,
    rounds: int = 5,
    picture: Path | None = None,
    shape: ScalingShape | None = None,
    say: Callable[[str], object] = lambda _: None,
) -> list[dict[str, Any]]:
    """Measure the step on two nodes.

    Args:
        megabits: a second, of the link each way (10⁶ bits).
        rounds: timed steps of each contender.
        picture: the `.svg` file of the timeline, if it is wanted.
        shape: the model and the rows of a process; `SHAPE` if not given.
        say: is told what was measured.

    Returns:
        a dictionary for each: `contender`; `megabits`; `seconds` of the median step, `_min` and
        `_max`; the machine's `load`; and of `torus`, of the last step, the `journeys` of the sums
        of layers, `waited_seconds` in which layers waited for one, `travelled_seconds` of all.

    Raises:
        InputError: this machine lets us make no namespaces, or the picture has no such name.
        RunError: a process failed.
    """
    if picture:
        from fugaku_jax.report.svg import check_name

        check_name(picture)
    told = {"megabits": megabits, "rounds": rounds}
    argument = json.dumps(told | {"shape": dataclasses.asdict(shape or SHAPE)})
    with tempfile.TemporaryDirectory() as cache:
        rows = run_module(
            "The step of two nodes",
            *(__name__, "wire", argument),
            variables={"JAX_COMPILATION_CACHE_DIR": cache},
            before=namespaces(),
        )
    for row in rows:
        row["load"] = os.getloadavg()[0]
        say(f"{row['contender']}: {row['seconds']:.3f} s a step")
    if picture:
        from fugaku_jax.benchmarks.draw_journeys import draw_journeys

        draw_journeys([Journey(*each) for each in rows[-1]["journeys"]], picture)
    return rows


def measure(megabits: float, rounds: int, shape: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Measure as one of the two; yield the rows."""
    import jax
    import numpy as np

    from fugaku_jax.cluster.hosts import agree, find_hosts
    from fugaku_jax.collectives.started import record, recorded
    from fugaku_jax.data.batch import Batch
    from fugaku_jax.models.layout import make_layout
    from fugaku_jax.training.state import init_state
    from fugaku_jax.training.step import make_train_step

    steps, states, batches = {}, {}, {}
    for name in CONTENDERS:
        config = step_config(shape, 2, {"data": 2, "collective": name})
        layout = make_layout(config)
        size = (1, config.training.batch_size, shape["sequence_length"] + 1)
        tokens = np.random.default_rng(0).integers(0, shape["vocab_size"], size, np.int32)
        batches[name] = Batch(jax.make_array_from_callback(size, layout.rows, tokens.__getitem__))
        states[name] = init_state(layout)
        steps[name] = make_train_step(layout).lower(states[name], batches[name]).compile()
        agree(find_hosts(os.environ), f"compiled {name}", {})
    seconds: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    for number in range(rounds + 1):  # the first connects
        for name in CONTENDERS:
            agree(find_hosts(os.environ), f"step {number} {name}", {})
            record(True)
            start = time.perf_counter()
            found = steps[name](states[name], batches[name])
            states[name], _ = jax.block_until_ready(found)
            if number:
                seconds[name].append(time.perf_counter() - start)
    journeys = recorded()
    for name in CONTENDERS:
        row = {
            "contender": name,
            "megabits": megabits,
            "seconds": statistics.median(seconds[name]),
            "seconds_min": min(seconds[name]),
            "seconds_max": max(seconds[name]),
        }
        if name == "torus":
            row |= {
                "travelled_seconds": sum(each.ended - each.started for each in journeys),
                "waited_seconds": sum(each.given - each.asked for each in journeys),
                "journeys": journeys,
            }
        yield row


def main() -> int:
    """Make the link, or be one of the nodes."""
    what, argument = sys.argv[1:]
    task = json.loads(argument)
    if what == "wire":
        module = "fugaku_jax.benchmarks.overlap", "node", argument
        return on_all_nodes((2,), task["megabits"], module)
    return print_joined(measure(**task))


if __name__ == "__main__":
    sys.exit(main())
