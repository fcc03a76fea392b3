"""Digests of a state's arrays on every device: what should be equal is compared by them."""

import math
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding
from jaxtyping import Array, PyTree, Shaped, UInt32

from fugaku_jax.cluster.decisions import decided


@dataclass(frozen=True)
class Difference:
    """A part of an array that is not the same everywhere where it should be."""

    name: str
    """The array's."""
    wrong: tuple[jax.Device, ...]
    """The devices that hold something else than most, or all that hold it, if no majority does."""
    others: int
    """How many devices hold what most do; 0 without a majority."""


def local_digests(state: PyTree[Shaped[Array, "..."]]) -> UInt32[np.ndarray, "devices arrays"]:
    """Return a digest (CRC-32) of each array's bytes on each device of this process, by its id."""
    digests = [
        [
            zlib.crc32(np.ascontiguousarray(shard.data).view(np.uint8).data)
            for shard in sorted(array.addressable_shards, key=lambda shard: shard.device.id)
        ]
        for array in jax.tree.leaves(state)
    ]
    return np.array(digests, np.uint32).T


def differing_replicas(
    state: PyTree[Shaped[Array, "..."]], pipeline: tuple[str, ...] = ()
) -> list[Difference]:
    """Return where devices that hold the same part of an array do not hold the same bits.

    All processes must ask together.

    Args:
        state: the arrays.
        pipeline: mesh axes of the stages. What is outside of the layers and split by them is held
            twice, by the first and by the last.
    """
    devices = _devices(state)

    def compare(said: list[list[list[int]]]) -> list[tuple[str, list[int], int]]:
        digests, found = np.concatenate([np.array(each, np.uint32) for each in said]), []
        for column, (path, array) in enumerate(jax.tree.leaves_with_path(state)):
            holders: dict[str, list[int]] = {}
            places, where = _places(path, array, pipeline), _where(array, devices)
            for row, index in enumerate(where):
                part = _in_first_place(index, len(array) // places, places) if places else index
                holders.setdefault(str(part), []).append(row)
            for rows in holders.values():
                held = {row: int(digests[row, column]) for row in rows}
                if len(set(held.values())) > 1:
                    found.append((_name(path), *_wrong(held)))
        return found

    return _decided(devices, compare, local_digests(state))


def differing_arrays(
    state: PyTree[Shaped[Array, "..."]], again: PyTree[Shaped[Array, "..."]]
) -> list[Difference]:
    """Return where a state that was computed twice is not the same; all must ask together."""
    devices = _devices(state)
    names = [_name(path) for path, _ in jax.tree.leaves_with_path(state)]

    def compare(said: list[list[list[bool]]]) -> list[tuple[str, list[int], int]]:
        differs = np.concatenate([np.array(each, bool) for each in said]).T
        return [
            (name, np.flatnonzero(column).tolist(), 0)
            for name, column in zip(names, differs, strict=True)
            if column.any()
        ]

    return _decided(devices, compare, local_digests(state) != local_digests(again))


def name_devices(devices: Sequence[jax.Device]) -> str:
    """Spell out devices with the ranks that they are of."""
    named = [f"{device.id} (rank {device.process_index})" for device in devices]
    return f"{'devices' if len(named) > 1 else 'device'} {', '.join(named)}"


def _decided(
    devices: Sequence[jax.Device],
    compare: Callable[[list[Any]], list[tuple[str, list[int], int]]],
    mine: Shaped[np.ndarray, "devices arrays"],
) -> list[Difference]:
    """Compare what all processes have found, on one of them, and tell all.

    Args:
        devices: all of them, in the order of the processes.
        compare: gives names of arrays, the numbers of the wrong devices, and how many are right.
        mine: what this process has found of its devices.
    """
    return [
        Difference(name, tuple(devices[row] for row in rows), others)
        for name, rows, others in decided("digests", mine.tolist(), compare)
    ]


def _wrong(held: dict[int, int]) -> tuple[list[int], int]:
    """Return which devices hold something else than most, and how many hold that."""
    (most, count), *_ = Counter(held.values()).most_common(1)
    has_majority = 2 * count > len(held)
    wrong = [device for device, digest in held.items() if not (has_majority and digest == most)]
    return wrong, count if has_majority else 0


def _where(array: Array, devices: Sequence[jax.Device]) -> list[tuple[slice, ...]]:
    """Return which part of an array each device holds."""
    indices = array.sharding.devices_indices_map(array.shape)
    return [indices[device] for device in devices]


def _name(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")


def _places(path: tuple[Any, ...], array: Array, pipeline: tuple[str, ...]) -> int:
    """Return how many places, of a stage each, an array has whose weight is at the ends; else 0."""
    where = array.sharding
    if not pipeline or not array.ndim or "blocks" in _name(path).split("."):
        return 0
    if not isinstance(where, NamedSharding) or not where.spec:
        return 0
    first = where.spec[0] if isinstance(where.spec[0], tuple) else (where.spec[0],)
    sizes = where.mesh.shape
    return math.prod(sizes[axis] for axis in pipeline) if set(pipeline) <= set(first) else 0


def _in_first_place(index: tuple[slice, ...], rows: int, places: int) -> tuple[slice, ...]:
    """Return where the first stage has what the last one has here; all else as it is."""
    start, stop, _ = index[0].indices(rows * places)
    before = (places - 1) * rows
    return (slice(start % before, stop - before if start >= before else stop), *index[1:])


def _devices(state: PyTree[Shaped[Array, "..."]]) -> list[jax.Device]:
    """Return the devices that a state lies on, in the order of the digests."""
    on = jax.tree.leaves(state)[0].sharding.device_set
    return sorted(on, key=lambda device: (device.process_index, device.id))
