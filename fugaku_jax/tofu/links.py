"""Which links carry how many messages when all groups of a mesh send at once.

On a torus a message takes the axes in the order x y z a b c, and each the shorter way round; at
half the way round it goes forward. On a fat tree it goes up from its leaf switch if its target is
at another one, and the links of a leaf upwards count as one, as adaptive routing makes them. On a
bus all messages pass the same medium. A node's injection and reception are links like any other.

**Contention.** Messages that share links get max-min fair shares. Of messages of one size that
start together the last one then ends when the busiest link, that of the greatest n/C (n messages,
capacity C), has carried all of its own. For no message ever gets less than the least C/n of all
links, since each link could give that to all of its messages; and the busiest link cannot carry its
own any sooner. So a round takes the size times the greatest n/C, and no shares need be computed.
"""

import functools
from dataclasses import dataclass
from math import prod
from typing import Literal

import numpy as np
from jaxtyping import Int, Int64

from fugaku_jax.errors import InputError
from fugaku_jax.tofu.machine import Network
from fugaku_jax.tofu.topology import AXES, Torus

LOCAL = "k"
"""The mesh axis of the devices of one node."""


@dataclass(frozen=True)
class NetworkMesh:
    """How a mesh lies on a network.

    Raises:
        InputError: an axis that the machine does not have, or more nodes than it has along one.
    """

    network: Network
    """Of the machine."""
    parts: tuple[tuple[str, int], ...]
    """Name and size of the mesh axes, the outermost first: `x`, or of a split axis `x0`, `x1`;
    and `k`, the devices of a node, last if there are several."""

    def __post_init__(self) -> None:
        for name, size in self.parts:
            if name[:1] not in (*AXES, LOCAL) or size < 1:
                raise InputError(
                    f"mesh axis {name}={size}: must be one of {' '.join(AXES)} {LOCAL}, or a part "
                    f"such as x0, of at least 1 device."
                )
        is_torus = self.network.topology == "torus"
        have = self.network.shape if is_torus else (self.network.nodes,)
        want = self.shape if is_torus else (prod(self.shape),)
        for axis, size, most in zip(AXES if is_torus else ("all",), want, have, strict=True):
            if size > most:
                raise InputError(
                    f"mesh {'x'.join(map(str, self.shape))}: has {size} nodes along {axis}, but "
                    f"the machine has {most}."
                )

    @property
    def shape(self) -> tuple[int, ...]:
        """Nodes along x y z a b c."""
        return tuple(prod(s for name, s in self.parts if name[0] == axis) for axis in AXES)

    @property
    def local(self) -> int:
        """Devices of a node."""
        return prod(size for name, size in self.parts if name[0] == LOCAL)

    def size(self, axes: tuple[str, ...]) -> int:
        """How many devices a group along some axes has. Raises InputError if one is not there."""
        sizes = dict(self.parts)
        for name in axes:
            if name not in sizes:
                raise InputError(f"axis {name!r}: the mesh has {', '.join(sizes) or 'none'}.")
        return prod(sizes[name] for name in axes)


@dataclass(frozen=True)
class Pattern:
    """Who sends to whom in a round, by places in a group."""

    kind: Literal["shift", "exchange", "fold", "unfold"]
    """To the place `distance` on, round the group; with the place that differs in the bit
    `distance`, among as many as are a power of two; and between those and the rest of the group,
    before and after such exchanges."""
    distance: int = 1
    """How far, or which bit."""
    order: Literal["rows", "snake"] = "rows"
    """How places count the devices of a group: row by row, the last axis fastest; or to and fro,
    so that each is a neighbour of the next."""

    def targets(self, size: int) -> Int64[np.ndarray, "size"]:
        """Return the place that each place of a group sends to; −1 where it sends nothing."""
        places = np.arange(size)
        if self.kind == "shift":
            return (places + self.distance) % size
        power = 1 << (size.bit_length() - 1)
        rest = size - power
        sends = np.full(size, -1)
        if self.kind == "exchange":
            within = np.where(
                np.arange(power) < rest, 2 * np.arange(power), np.arange(power) + rest
            )
            sends[within] = within[np.arange(power) ^ self.distance]
        elif self.kind == "fold":
            sends[1 : 2 * rest : 2] = places[: 2 * rest : 2]
        else:
            sends[: 2 * rest : 2] = places[1 : 2 * rest : 2]
        return sends


@dataclass(frozen=True)
class Traffic:
    """What a pattern asks of a network, all groups and all devices of a node sending at once."""

    loads: tuple[tuple[str, float], ...]
    """Kind of link, and the messages that pass the busiest of that kind: `x+` is the direction of
    rising x; `in` and `out` are a node's own, `up` and `down` a leaf switch's, `bus` is the bus."""
    hops: int
    """Links of the longest way, further than the first."""


@functools.lru_cache(maxsize=4096)
def traffic(mesh: NetworkMesh, axes: tuple[str, ...], pattern: Pattern) -> Traffic:
    """Count the messages on every link when each group along some axes does the same."""
    axes = tuple(name for name in axes if name[0] != LOCAL)
    network = mesh.network
    if network.topology == "torus":  # what lies along other axes does the same on other links
        touched = {name[0] for name in axes}
        parts = tuple(part for part in mesh.parts if part[0][0] in touched)
    else:
        parts = tuple(part for part in mesh.parts if part[0][0] != LOCAL)
    members = _members(parts, axes, pattern.order)
    targets = pattern.targets(members.shape[1])
    sends = (targets >= 0) & (targets != np.arange(len(targets)))
    sources, sinks = members[:, sends].reshape(-1), members[:, targets[sends]].reshape(-1)
    if network.topology == "torus":
        loads, hops = _torus_traffic(torus_of(network, parts), sources, sinks)
    elif network.topology == "fat_tree":
        loads, hops = _tree_traffic(network, sources, sinks)
    else:
        loads, hops = {"bus": len(sources)}, 0
    return Traffic(tuple((kind, float(n * mesh.local)) for kind, n in loads.items()), hops)


def torus_of(network: Network, parts: tuple[tuple[str, int], ...]) -> Torus:
    """Return the nodes of some mesh axes; an axis that is all that the machine has is a ring."""
    shape = tuple(prod(size for name, size in parts if name[0] == axis) for axis in AXES)
    return Torus(shape, tuple(a == b for a, b in zip(shape, network.shape, strict=True)))


def capacity(network: Network, kind: str) -> float:
    """Bytes a second of a kind of link, as `Traffic.loads` names them."""
    if kind in ("in", "out"):
        links = network.interfaces * network.link_bytes_per_second
        return min(network.injection_bytes_per_second, links)
    if kind in ("up", "down"):
        leaf = network.nodes_per_leaf * network.link_bytes_per_second
        return leaf / network.oversubscription
    return network.link_bytes_per_second


def torus_link_loads(
    torus: Torus, sources: Int[np.ndarray, "M"], targets: Int[np.ndarray, "M"]
) -> Int64[np.ndarray, "nodes 6 2"]:
    """Count the messages that leave each node by each of its links.

    Args:
        torus: the nodes.
        sources: the number of the node that each message comes from.
        targets: and of that which it goes to.

    Returns:
        by node, axis and direction, the rising one first.
    """
    loads = np.zeros((torus.nodes, 6, 2), np.int64)
    at = torus.coordinates(sources)
    steps = torus.steps(at, torus.coordinates(targets))
    for axis in range(6):
        left = steps[:, axis].copy()
        while (moving := left != 0).any():
            for direction, sign in enumerate((1, -1)):
                going = moving & (np.sign(left) == sign)
                passed = np.bincount(torus.numbers(at[going]), minlength=torus.nodes)
                loads[:, axis, direction] += passed
                at[going, axis] = (at[going, axis] + sign) % torus.shape[axis]
            left -= np.sign(left)
    return loads


def _members(
    parts: tuple[tuple[str, int], ...], axes: tuple[str, ...], order: str
) -> Int64[np.ndarray, "groups size"]:
    """The numbers of the nodes of each group along some axes, in the order of their places."""
    names = [name for name, _ in parts]
    grid = np.arange(prod(size for _, size in parts)).reshape([size for _, size in parts])
    rest = [i for i, name in enumerate(names) if name not in axes]
    grid = grid.transpose(rest + [names.index(name) for name in axes])
    grid = grid.reshape(-1, *grid.shape[len(rest) :])
    return _snake(grid) if order == "snake" else grid.reshape(len(grid), -1)


def _snake(grid: Int64[np.ndarray, "groups *sizes"]) -> Int64[np.ndarray, "groups size"]:
    """Count to and fro: every second run along the inner axes goes backwards."""
    if grid.ndim <= 2:
        return grid.reshape(len(grid), -1)
    runs = [_snake(grid[:, i]) for i in range(grid.shape[1])]
    return np.concatenate([run[:, :: 1 - 2 * (i % 2)] for i, run in enumerate(runs)], axis=1)


def _torus_traffic(
    torus: Torus, sources: Int[np.ndarray, "M"], sinks: Int[np.ndarray, "M"]
) -> tuple[dict[str, int], int]:
    loads = torus_link_loads(torus, sources, sinks).max(axis=0, initial=0)
    found = {
        f"{name}{sign}": int(loads[axis, direction])
        for axis, name in enumerate(AXES)
        for direction, sign in enumerate("+-")
        if loads[axis, direction]
    }
    return found | _ends(sources, sinks), _furthest(
        torus.distance(torus.coordinates(sources), torus.coordinates(sinks))
    )


def _tree_traffic(
    network: Network, sources: Int[np.ndarray, "M"], sinks: Int[np.ndarray, "M"]
) -> tuple[dict[str, int], int]:
    up, down = sources // network.nodes_per_leaf, sinks // network.nodes_per_leaf
    crossing = up != down
    found = _ends(sources, sinks)
    if crossing.any():
        found |= {"up": _most(up[crossing]), "down": _most(down[crossing])}
    return found, 2 * int(crossing.any())


def _ends(sources: Int[np.ndarray, "M"], sinks: Int[np.ndarray, "M"]) -> dict[str, int]:
    return {"out": _most(sources), "in": _most(sinks)} if len(sources) else {}


def _most(numbers: Int[np.ndarray, "M"]) -> int:
    return int(np.bincount(numbers).max())


def _furthest(distances: Int[np.ndarray, "M"]) -> int:
    return max(int(distances.max(initial=1)) - 1, 0)
