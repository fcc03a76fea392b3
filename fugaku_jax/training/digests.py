"""Digests of a state's arrays on every device: what should be equal is compared by them."""

import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Array, PyTree, Shaped, UInt32


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


def digests_of_all(state: PyTree[Shaped[Array, "..."]]) -> UInt32[np.ndarray, "devices arrays"]:
    """Return those of all processes' devices, by their ids; all processes ask together."""
    mine = local_digests(state)
    if jax.process_count() == 1:
        return mine
    return np.concatenate(multihost_utils.process_allgather(mine))


def differing_replicas(
    state: PyTree[Shaped[Array, "..."]], digests: UInt32[np.ndarray, "devices arrays"]
) -> list[Difference]:
    """Return where devices that hold the same part of an array do not hold the same bits.

    Args:
        state: the arrays.
        digests: what `digests_of_all` said of them.
    """
    row = {device: number for number, device in enumerate(_devices(state))}
    found = []
    for column, (path, array) in enumerate(jax.tree.leaves_with_path(state)):
        holders: dict[str, list[jax.Device]] = {}
        for device, index in array.sharding.devices_indices_map(array.shape).items():
            holders.setdefault(str(index), []).append(device)
        for devices in holders.values():
            held = {device: int(digests[row[device], column]) for device in devices}
            if len(set(held.values())) > 1:
                found.append(_difference(_name(path), held))
    return found


def differing_arrays(
    state: PyTree[Shaped[Array, "..."]],
    digests: UInt32[np.ndarray, "devices arrays"],
    again: UInt32[np.ndarray, "devices arrays"],
) -> list[Difference]:
    """Return where a state that was computed twice is not the same, by the digests of both."""
    devices = _devices(state)
    names = [
        jax.tree_util.keystr(path, simple=True, separator=".")
        for path, _ in jax.tree.leaves_with_path(state)
    ]
    return [
        Difference(name, tuple(devices[row] for row in np.flatnonzero(differs)), 0)
        for name, differs in zip(names, (digests != again).T, strict=True)
        if differs.any()
    ]


def name_devices(devices: Sequence[jax.Device]) -> str:
    """Spell out devices with the ranks that they are of."""
    named = [f"{device.id} (rank {device.process_index})" for device in devices]
    return f"{'devices' if len(named) > 1 else 'device'} {', '.join(named)}"


def _difference(name: str, held: dict[jax.Device, int]) -> Difference:
    (most, count), *_ = Counter(held.values()).most_common(1)
    has_majority = 2 * count > len(held)
    wrong = [device for device, digest in held.items() if not (has_majority and digest == most)]
    return Difference(name, tuple(wrong), count if has_majority else 0)


def _name(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")


def _devices(state: PyTree[Shaped[Array, "..."]]) -> list[jax.Device]:
    """Return the devices that a state lies on, in the order of the digests."""
    on = jax.tree.leaves(state)[0].sharding.device_set
    return sorted(on, key=lambda device: (device.process_index, device.id))
