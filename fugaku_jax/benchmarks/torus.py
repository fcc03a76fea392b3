"""All-reduces over a torus of slow links: XLA's over gloo, and those of our own.

The torus is one of network namespaces (`wiring.py`), a process to a node. The contenders take turns
on the same array. What each should take is *modelled* from the speed of the links (`tofu.network`),
not fitted to what is measured.

As a program, this module is what makes the torus, and each of its nodes: `python -m
fugaku_jax.benchmarks.torus wire '{…}'`.
"""

import contextlib
import dataclasses
import functools
import json
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from fugaku_jax.benchmarks.processes import print_joined, run_module
from fugaku_jax.benchmarks.wiring import MTU, namespaces, on_all_nodes
from fugaku_jax.collectives.routes import cut, plan_routes
from fugaku_jax.errors import InputError
from fugaku_jax.tofu.machine import Network
from fugaku_jax.tofu.network import collective_seconds
from fugaku_jax.tofu.topology import AXES

SHAPES = ("2x3x2", "2x3", "2x4", "3x3")

_PAYLOAD = (MTU - 52) / (MTU + 14)  # of a full packet: without the headers of TCP, IP and Ethernet
_LATENCY, _HOP = 2e-4, 2e-5  # seconds of a small message to a neighbour, and of a node on the way
_ADDING = 1e9  # bytes a second, where a dozen processes share few cores


@dataclass(frozen=True)
class TorusTask:
    """What is measured on one torus."""

    shape: tuple[int, ...]
    megabytes: tuple[float, ...]
    """Of fp32 that each process adds (10⁶ bytes)."""
    megabits: float
    """A second, of each link each way (10⁶ bits)."""
    rounds: int
    """Timed calls of each contender."""


def run(
    shapes: Sequence[str] = SHAPES,
    megabytes: Sequence[float] = (1, 4, 16, 64),
    megabits: float = 20,
    rounds: int = 3,
    say: Callable[[str], object] = lambda _: None,
) -> list[dict[str, Any]]:
    """Measure on tori of these shapes.

    Args:
        shapes: nodes along each axis, as `2x3x2`.
        megabytes: as in `TorusTask`.
        megabits: as in `TorusTask`.
        rounds: as in `TorusTask`.
        say: is told what was measured.

    Returns:
        a dictionary for each shape and size: `contender`, those two; `shape`, `bytes`,
        `megabits`; `flat_seconds` and `ours_seconds` of the median call, and `_min` and `_max` of
        each; `ratio_to_flat`, the first over the second; `modelled_seconds` of ours, and
        `flat_modelled_seconds`; and the
        machine's `load`.

    Raises:
        InputError: a shape is none, or this machine lets us make no namespaces.
        RunError: a process failed.
    """
    rows = []
    for shape in shapes:
        sizes = _sizes(shape)
        task = TorusTask(sizes, tuple(megabytes), megabits, rounds)
        argument = json.dumps(dataclasses.asdict(task))
        before = namespaces()
        with tempfile.TemporaryDirectory() as cache:
            found = run_module(
                f"The torus of {shape}",
                *(__name__, "wire", argument),
                variables={"JAX_COMPILATION_CACHE_DIR": cache},
                before=before,
            )
        for row in found:
            contender = f"{shape}, {row['bytes'] / 1e6:g} MB"
            names = {"contender": contender, "shape": shape}
            rows.append(names | row | {"load": os.getloadavg()[0]})
            say(
                f"{contender}: flat {row['flat_seconds']:.3f} s, ours "
                f"{row['ours_seconds']:.3f} s ({row['ratio_to_flat']:.2f} times as fast)"
            )
    return rows


def measure(task: TorusTask) -> Iterator[dict[str, Any]]:
    """Measure as one of the joined processes; yield the rows."""
    import jax
    import numpy as np
    from jax.sharding import AxisType, PartitionSpec

    from fugaku_jax.collectives import torus
    from fugaku_jax.collectives.connections import connect

    names = tuple("xyzabc"[: len(task.shape)])
    mesh = jax.make_mesh(task.shape, names, axis_types=(AxisType.Explicit,) * len(names))
    links = connect(mesh)
    if links is None:
        raise InputError("Sums over the torus cannot be had here, so there is nothing to measure.")
    contenders = {
        "flat": lambda x: jax.lax.psum(x, names),
        "ours": lambda x: torus.all_reduce(links, x, names),
    }
    meeting = {"meet": lambda x: torus.all_reduce(links, x[:1], names)}
    whole = PartitionSpec(names)

    def compiled(function: Callable[[jax.Array], jax.Array], x: jax.Array) -> Any:
        mapped = jax.shard_map(function, in_specs=whole, out_specs=whole, check_vma=False)
        return jax.jit(mapped).lower(x).compile()

    for megabytes in task.megabytes:
        length = math.ceil(megabytes * 1e6 / 4)
        summand = np.random.default_rng(jax.process_index()).standard_normal(length, np.float32)
        with jax.set_mesh(mesh):
            sharding = jax.sharding.NamedSharding(mesh, whole)
            x = jax.make_array_from_process_local_data(sharding, summand)
            calls = {name: compiled(f, x) for name, f in (contenders | meeting).items()}
        seconds: dict[str, list[float]] = {name: [] for name in contenders}
        found: dict[str, np.ndarray] = {}
        # The very first calls connect, and are not counted. All begin together: who was done first
        # with the call before would else wait for the last.
        for number in range(task.rounds + (megabytes == task.megabytes[0])):
            for name in contenders:
                jax.block_until_ready(calls["meet"](x))
                start = time.perf_counter()
                y = jax.block_until_ready(calls[name](x))
                if number or megabytes != task.megabytes[0]:
                    seconds[name].append(time.perf_counter() - start)
                found[name] = np.asarray(y.addressable_shards[0].data)
        # Sums of a dozen numbers in another order: some roundings of fp32.
        np.testing.assert_allclose(found["ours"], found["flat"], atol=1e-5)
        flat, ours = (statistics.median(seconds[name]) for name in contenders)
        yield {
            "bytes": 4 * length,
            "megabits": task.megabits,
            "flat_seconds": flat,
            "ours_seconds": ours,
            **modelled(task.shape, task.megabits, 4 * length),
            "ratio_to_flat": flat / ours,
            **{f"{name}_seconds_min": min(seconds[name]) for name in contenders},
            **{f"{name}_seconds_max": max(seconds[name]) for name in contenders},
        }


def modelled(shape: tuple[int, ...], megabits: float, nbytes: int) -> dict[str, float]:
    """Return what an all-reduce takes on a torus of such links: ours, and a ring's in rank order.

    Args:
        shape: nodes along each axis, the first the outermost of their order.
        megabits: a second, of each link each way.
        nbytes: that each process adds.
    """
    speed = megabits * 1e6 / 8 * _PAYLOAD
    network = Network(
        topology="torus",
        shape=(shape + (1,) * len(AXES))[: len(AXES)],
        link_bytes_per_second=speed,
        latency_seconds=_LATENCY,
        hop_seconds=_HOP,
        interfaces=2 * len(AXES),
        injection_bytes_per_second=2 * len(AXES) * speed,
        reduction_bytes_per_second=_ADDING,
    )
    parts = tuple(zip(AXES, shape, strict=False))
    axes = tuple(name for name, _ in parts)
    reduced = functools.partial(collective_seconds, network, parts, axes, "all-reduce", nbytes)
    routes = plan_routes(shape)
    ours = reduced(routes, len(cut(routes, nbytes // 4, 4)))
    return {
        "modelled_seconds": ours.seconds,
        "flat_modelled_seconds": reduced("ring").seconds,
    }


def _sizes(shape: str) -> tuple[int, ...]:
    with contextlib.suppress(ValueError):
        sizes = tuple(map(int, shape.split("x")))
        if 1 <= len(sizes) <= 6 and min(sizes) > 0 and math.prod(sizes) > 1:
            return sizes
    raise InputError(f"The shape is {shape}; write it as 2x3x2, with one to six sizes.")


def main() -> int:
    """Make the torus, or be one of its nodes."""
    what, argument = sys.argv[1:]
    fields = json.loads(argument)
    task = TorusTask(
        tuple(fields["shape"]), tuple(fields["megabytes"]), fields["megabits"], fields["rounds"]
    )
    if what == "wire":
        return on_all_nodes(
            task.shape, task.megabits, ("fugaku_jax.benchmarks.torus", "node", argument)
        )
    return print_joined(measure(task))


if __name__ == "__main__":
    sys.exit(main())
