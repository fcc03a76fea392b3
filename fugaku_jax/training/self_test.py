"""What each process of a run shows that it can, before the first step: compute, remember, talk."""

import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Float32

from fugaku_jax.cluster.decisions import decided
from fugaku_jax.cluster.outliers import slow_ones
from fugaku_jax.cluster.rank_names import RankNames, sentence
from fugaku_jax.errors import RunError
from fugaku_jax.training.probe import Multiply, Probe, multiply

ROWS = 512
PROBE_SECONDS = 0.2
_MEMORY_WORDS = 1 << 23  # 32 MiB: more than caches hold
_LINK_WORDS = 1 << 18  # 1 MiB
_REPEATS = 3


def self_test(
    mesh: Mesh | AbstractMesh, names: RankNames, multiply: Multiply = multiply
) -> list[str]:
    """Test products, memory and the links to neighbours; all processes must call it.

    A product of whole numbers is compared with what it must be; its time, that of adding to an
    array in memory, and that of an exchange with the next device along each mesh axis on which
    this is another process are compared with those of the other processes.

    Args:
        mesh: of the run.
        names: what to call ranks.
        multiply: what is to compute the product.

    Returns:
        what is to be said: the medians, and which ranks are far slower.

    Raises:
        RunError: on all processes, if the product or what came over a link is wrong on one.
    """
    assert isinstance(mesh, Mesh)
    probe = Probe(ROWS, multiply)
    axes = _axes_between_processes(mesh)
    links = [_link(mesh, axis) for axis in axes]
    mine = [probe.wrong(), sum(wrong for wrong, _ in links), probe.seconds(PROBE_SECONDS)]
    mine += [_memory_seconds(), *(seconds for _, seconds in links)]
    amounts = {
        "products": (probe.operations / 1e9, "GFLOP/s"),
        "memory": (8 * _MEMORY_WORDS / 1e9, "GB/s"),
    } | {f"exchange along {axis}": (8 * _LINK_WORDS / 1e9, "GB/s") for axis in axes}

    def judge(said: list[list[float]]) -> list[str]:
        found = np.array(said, np.float32)
        _refuse_wrong(found[:, :2], names)
        return _said(found[:, 2:], amounts, names)

    return decided("self-test", mine, judge)


def _refuse_wrong(wrong: Float32[np.ndarray, "P 2"], names: RankNames) -> None:
    for column, what in zip(
        wrong.T, ("compute wrong products", "receive what nobody sent"), strict=True
    ):
        if bad := np.flatnonzero(column).tolist():
            those = what.replace(" ", "s ", 1) if len(bad) == 1 else what
            raise RunError(
                f"{sentence(names(bad))} {those} in the test before the first step; leave out "
                f"{'its node' if len(bad) == 1 else 'their nodes'}."
            )


def _said(
    seconds: Float32[np.ndarray, "P F"], amounts: dict[str, tuple[float, str]], names: RankNames
) -> list[str]:
    """Say how much a second the median rank does of each thing, and who does far less."""
    medians, slow = [], []
    for (what, (amount, unit)), column in zip(amounts.items(), seconds.T, strict=True):
        usual = amount / float(np.median(column))
        medians.append(f"{what} {usual:.3g} {unit}")
        for rank in slow_ones(column.tolist())[:3]:
            speed = amount / float(column[rank])
            slow.append(
                f"warning: {names([rank])} is slow: {what} {speed:.3g} {unit}, where the median "
                f"rank has {usual:.3g}"
            )
    return [f"  each process: {', '.join(medians)}", *slow]


def _memory_seconds() -> float:
    """Time an addition to every word of an array that no cache holds."""
    with jax.set_mesh(None), jax.default_device(jax.local_devices()[0]):
        call = jax.jit(lambda x: x + 1.0)
        return _least_seconds(call, jnp.zeros(_MEMORY_WORDS, jnp.float32))


def _axes_between_processes(mesh: Mesh) -> list[str]:
    """Name the axes along which the next device is another process's."""
    process = np.vectorize(lambda device: device.process_index)(mesh.devices)
    steps = enumerate(mesh.axis_names)
    return [name for axis, name in steps if np.any(process != np.roll(process, -1, axis))]


def _link(mesh: Mesh, axis: str) -> tuple[int, float]:
    """Send to the next device along an axis: how many words come wrong, and how long it takes."""
    devices, size = mesh.devices.size, mesh.shape[axis]
    numbers = np.arange(devices, dtype=np.float32).reshape(mesh.devices.shape)
    spec = PartitionSpec(mesh.axis_names)
    sharding = NamedSharding(mesh, spec)

    def spread(rows: np.ndarray) -> Float[Array, "D W"]:
        shape = (devices, _LINK_WORDS)
        whole = np.broadcast_to(rows.reshape(-1, 1), shape)
        return jax.make_array_from_callback(shape, sharding, lambda index: whole[index])

    ring = [(i, (i + 1) % size) for i in range(size)]
    with jax.set_mesh(mesh):
        send = jax.jit(
            jax.shard_map(
                lambda x: jax.lax.ppermute(x, axis, ring), mesh=mesh, in_specs=spec, out_specs=spec
            )
        )
        sent = spread(numbers)
        seconds = _least_seconds(send, sent)
        expected = spread(np.roll(numbers, 1, mesh.axis_names.index(axis)))
        pairs = zip(send(sent).addressable_shards, expected.addressable_shards, strict=True)
        wrong = sum(int(np.sum(np.asarray(x.data) != np.asarray(y.data))) for x, y in pairs)
    return wrong, seconds


def _least_seconds(call: Callable[[Array], Array], argument: Array) -> float:
    call(argument).block_until_ready()
    seconds = []
    for _ in range(_REPEATS):
        begun = time.perf_counter()
        call(argument).block_until_ready()
        seconds.append(time.perf_counter() - begun)
    return min(seconds)
