"""Seconds of each collective, by axis of the mesh.

On emulated devices no byte crosses a wire: `run` shows what the phases, the copies between them and
the waiting for one another cost, not what a torus would gain. For that, call `measure` in processes
that are joined over the wires in question, on their mesh.

As a program, this module is the process with the emulated devices: `python -m
fugaku_jax.benchmarks.collectives '{...}'`.
"""

import json
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from fugaku_jax.benchmarks.processes import run_module

LOCAL_AXIS = "local"


def run(
    shape: Sequence[int] = (2, 2),
    local: int = 2,
    megabytes: float = 8,
    rounds: int = 5,
    say: Callable[[str], object] = lambda _: None,
) -> list[dict[str, Any]]:
    """Measure on emulated devices of this machine.

    Args:
        shape: sizes of the torus axes, x first; at most six.
        local: devices a node, along an axis of their own that nothing is summed over.
        megabytes: fp32 on each device, before it is scattered or after it is gathered (10⁶ bytes).
        rounds: timed calls of each.
        say: is told what was measured.

    Returns:
        the rows of `measure`.

    Raises:
        RunError: the process with the emulated devices failed.
    """
    flags = f"--xla_force_host_platform_device_count={math.prod(shape) * local}"
    variables = {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flags}"}
    arguments = {"shape": shape, "local": local, "megabytes": megabytes, "rounds": rounds}
    program = __name__, json.dumps(arguments)
    rows = run_module("Collectives on emulated devices", *program, variables=variables)
    for row in rows:
        say(f"{row['contender']}: {row['seconds']:.4f} s")
    return rows


def measure(axes: Sequence[str], megabytes: float, rounds: int) -> Iterator[dict[str, Any]]:
    """Measure on the mesh that is active; in several processes all must call this alike.

    Args:
        axes: the axes to reduce over; each alone and all together.
        megabytes: as `run`, rounded up to a multiple of the devices.
        rounds: as `run`.

    Yields:
        a dictionary for each collective and axes: those two; `contender`, them in one; `bytes` on
        each device; `seconds` of the median call, `seconds_min` and `seconds_max`;
        and `bytes_per_second`, of the median call.
    """
    import jax

    sizes = jax.sharding.get_abstract_mesh().shape
    axes = [axis for axis in axes if sizes[axis] > 1]
    for together in [*((axis,) for axis in axes), tuple(axes)] if axes[1:] else [tuple(axes)]:
        for collective in ("all_reduce", "reduce_scatter", "all_gather"):
            call, size = _prepare(collective, together, megabytes)
            call()  # compiles
            seconds = []
            for _ in range(rounds):
                start = time.perf_counter()
                call()
                seconds.append(time.perf_counter() - start)
            yield {
                "contender": f"{collective} {' '.join(together)}",
                "collective": collective,
                "axes": list(together),
                "bytes": size,
                "seconds": statistics.median(seconds),
                "seconds_min": min(seconds),
                "seconds_max": max(seconds),
                "bytes_per_second": size / statistics.median(seconds),
            }


def _prepare(
    collective: str, axes: tuple[str, ...], megabytes: float
) -> tuple[Callable[[], object], int]:
    """Return a function that makes one call and waits for it, and the bytes on each device."""
    import jax
    import jax.numpy as jnp
    from jax.sharding import PartitionSpec

    from fugaku_jax.collectives import sums

    mesh = jax.sharding.get_abstract_mesh()
    spec = PartitionSpec(mesh.axis_names)
    devices = math.prod(mesh.shape[axis] for axis in axes)
    length = math.ceil(megabytes * 1e6 / 4 / devices) * devices
    held = length // devices if collective == "all_gather" else length
    over = axes if collective == "all_reduce" else tuple((axis, 0) for axis in axes)
    mapped = jax.shard_map(
        lambda x: getattr(sums, collective)(x, over),
        in_specs=spec,
        out_specs=spec,
        check_vma=False,
    )
    x = jax.jit(lambda: jnp.ones(held * mesh.size, jnp.float32, out_sharding=spec))()
    compiled = jax.jit(mapped).lower(x).compile()
    return lambda: jax.block_until_ready(compiled(x)), 4 * length


def main() -> None:
    """Measure on all devices of this process and print each row as JSON."""
    import jax
    from jax.sharding import AxisType

    from fugaku_jax.tofu.topology import AXES

    arguments = json.loads(sys.argv[1])
    names = AXES[: len(arguments["shape"])]
    mesh = jax.make_mesh(
        (*arguments["shape"], arguments["local"]),
        (*names, LOCAL_AXIS),
        axis_types=(AxisType.Explicit,) * (len(names) + 1),
    )
    with jax.set_mesh(mesh):
        for row in measure(names, arguments["megabytes"], arguments["rounds"]):
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
