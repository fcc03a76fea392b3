"""The six-dimensional torus of the Tofu interconnect D: coordinates, neighbours, links, distance.

Twelve nodes, 2 along a, 3 along b and 2 along c, are a unit; the units lie along x, y and z
(Ajima et al., "The Tofu Interconnect D", IEEE CLUSTER 2018).
"""

from dataclasses import dataclass
from math import prod

import numpy as np
from jaxtyping import Int, Int64

from fugaku_jax.errors import InputError

AXES = ("x", "y", "z", "a", "b", "c")
"""Names of the axes: x y z of the units, a b c of the nodes inside a unit."""

UNIT_SHAPE = (2, 3, 2)
"""Nodes of a whole unit along a, b and c."""


@dataclass(frozen=True)
class Torus:
    """A box of nodes on six axes, of which some close into rings.

    A node has a coordinate on each axis, and a number that counts the nodes row by row: c changes
    fastest, x slowest. Arrays of coordinates are [..., 6]; arrays of numbers have the same
    leading shape.

    Raises:
        InputError: a size below 1, more than 2, 3, 2 nodes along a, b, c, or not six axes.
    """

    shape: tuple[int, ...]
    """Nodes along x y z a b c."""
    wraps: tuple[bool, ...]
    """Whether a link joins the last node of each axis to the first. Means nothing on an axis of
    length 2, whose two nodes have one link either way."""

    def __post_init__(self) -> None:
        if len(self.shape) != 6 or len(self.wraps) != 6:
            raise InputError(
                f"torus {self.shape}, wraps {self.wraps}: each must have six entries, "
                f"for {' '.join(AXES)}."
            )
        for axis, size in zip(AXES, self.shape, strict=True):
            if size < 1:
                raise InputError(
                    f"torus {self.shape}: axis {axis} is {size}; it must be at least 1."
                )
        for axis, size, most in zip(AXES[3:], self.shape[3:], UNIT_SHAPE, strict=True):
            if size > most:
                raise InputError(
                    f"torus {self.shape}: axis {axis} is {size}, but a unit has {most} nodes there."
                )

    @property
    def nodes(self) -> int:
        """How many nodes there are."""
        return prod(self.shape)

    @property
    def unit(self) -> int:
        """Nodes in a unit: 12 where a, b and c are whole."""
        return prod(self.shape[3:])

    def coordinates(self, numbers: Int[np.ndarray, "*batch"]) -> Int64[np.ndarray, "*batch 6"]:
        """The coordinates of numbered nodes. Raises InputError for a number that no node has."""
        outside = (numbers < 0) | (numbers >= self.nodes)
        if outside.any():
            raise InputError(
                f"node {numbers[outside][0]}: the torus has the nodes 0 to {self.nodes - 1}."
            )
        return np.stack(np.unravel_index(numbers, self.shape), axis=-1).astype(np.int64)

    def numbers(self, coordinates: Int[np.ndarray, "*batch 6"]) -> Int64[np.ndarray, "*batch"]:
        """The numbers of nodes: `coordinates` inverted. Raises InputError outside of the torus."""
        outside = ((coordinates < 0) | (coordinates >= self.shape)).any(axis=-1)
        if outside.any():
            first = tuple(coordinates[outside][0].tolist())
            raise InputError(f"coordinate {first}: outside of the torus {self.shape}.")
        strides = np.cumprod((1, *self.shape[:0:-1]))[::-1]
        return np.asarray(coordinates @ strides, np.int64)

    def neighbours(self, node: int) -> tuple[int, ...]:
        """The numbers of the nodes one link away: axis by axis, lower coordinate first.

        The two ends of a ring follow the ring, so before the first node comes the last.
        """
        place = self.coordinates(np.array(node))
        found = []
        for axis, size in enumerate(self.shape):
            for step in (-1, 1):
                moved = place.copy()
                moved[axis] += step
                if self._is_ring(axis):
                    moved[axis] %= size
                if 0 <= moved[axis] < size:
                    found.append(int(self.numbers(moved)))
        return tuple(found)

    def links(self, axis: int) -> Int64[np.ndarray, "L 2"]:
        """The links along one axis (0 to 5 for x y z a b c), each once: numbers of its two ends.

        Counted without direction; a link carries both directions at once. On a ring the second
        end is the next node round it, so the last node's link ends at the first.
        """
        grid = np.moveaxis(np.arange(self.nodes).reshape(self.shape), axis, 0)
        ends = np.stack([grid, np.roll(grid, -1, axis=0)], axis=-1)
        return (ends if self._is_ring(axis) else ends[:-1]).reshape(-1, 2)

    def steps(
        self, source: Int[np.ndarray, "*#batch 6"], target: Int[np.ndarray, "*#batch 6"]
    ) -> Int64[np.ndarray, "... 6"]:
        """Hops along each axis of a shortest way between coordinates; the sign is the direction.

        Half-way round a ring of even length, where both directions are as short, it is positive.
        """
        size = np.array(self.shape)
        straight = np.asarray(target - source, np.int64)
        forward = straight % size
        round_ring = np.where(2 * forward <= size, forward, forward - size)
        rings = np.array([self._is_ring(axis) for axis in range(6)])
        return np.where(rings, round_ring, straight)

    def distance(
        self, source: Int[np.ndarray, "*#batch 6"], target: Int[np.ndarray, "*#batch 6"]
    ) -> Int64[np.ndarray, "..."]:
        """Hops of a shortest way between coordinates; one source may meet many targets."""
        return np.asarray(np.abs(self.steps(source, target)).sum(axis=-1))

    def _is_ring(self, axis: int) -> bool:
        return self.wraps[axis] and self.shape[axis] > 2


FUGAKU = Torus(shape=(24, 23, 24, 2, 3, 2), wraps=(True, True, True, False, True, False))
"""All 158,976 nodes of Fugaku."""
