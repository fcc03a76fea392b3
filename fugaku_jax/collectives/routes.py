"""Which part of a sum goes round a torus by which axes first, so that all links of a node carry.

A reduce-scatter that walks the axes in some order sends most along the first: of a share s over
axes of n, m, … devices, s (n-1)/n along the first, s/n (m-1)/m along the second, and so on. So the
array is cut into parts that take the axes in different orders, and a part in two halves that go
round in opposite directions. An axis of two devices has one link between them, a longer one two at
each device. On 2 x 3 x 2 no link then carries more than a quarter of the array each way, where one
ring through all twelve carries 11/12. An all-gather takes the same ways back.

Source: the idea is that of Sack & Gropp, "Collective algorithms for multiported torus networks",
ACM Transactions on Parallel Computing 1, 2015. No device is needed here: a plan is numbers.
"""

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

SLICES = 48
"""Into how many equal slices an array is cut, each of which is given to an order of the axes."""
CHUNKS = 128
"""Chunks of an array that is neither small nor large: they follow one another through the links."""
LEAST_CHUNK, LARGEST_CHUNK = 1 << 13, 1 << 20
"""Bytes of a chunk; an array of fewer than the least goes as one."""

_SHARPNESS = 16


@dataclass(frozen=True)
class Route:
    """How one part of an array travels."""

    share: Fraction
    """Of the array."""
    axes: tuple[int, ...]
    """Indices of the axes, in the order in which they are walked."""
    backward: bool
    """Whether it goes round them from the last device to the first."""


@dataclass(frozen=True)
class Chunk:
    """A run of neighbouring elements that travels as one."""

    start: int
    length: int
    route: int
    """Index of its route."""


def links_of(size: int) -> int:
    """Links that a device has along an axis."""
    return 0 if size < 2 else 1 if size == 2 else 2


@dataclass(frozen=True)
class Wire:
    """The links that messages along an axis of a mesh take."""

    axis: str
    """Of the machine; parts of one that was split share its links."""
    load: Fraction
    """Messages that a link carries each way while every device sends one to the next along the
    axis, half of them forward and half backward."""


def wires_of(parts: Sequence[tuple[str, int]], axes: Sequence[str]) -> tuple[Wire, ...]:
    """Return the links along axes of a mesh on a torus.

    Of an axis that was split, x = 3 x 8 say, `x1` counts neighbours, but its ring of eight closes
    over the links of the other direction; `x0` goes eight links at a time, which eight groups
    share.

    Args:
        parts: name and size of each axis of the mesh; parts of one have its letter, and a number
            that is the least for the outermost.
        axes: those that are asked for.
    """
    sizes, found = dict(parts), []
    for name in axes:
        letter = name.rstrip("0123456789")
        same = [each for each in sizes if each.rstrip("0123456789") == letter]
        stride = math.prod(sizes[each] for each in same[same.index(name) + 1 :])
        whole = math.prod(sizes[each] for each in same)
        is_ring = stride * sizes[name] == whole > 2
        found.append(Wire(letter, Fraction(stride, 2 if is_ring else 1)))
    return tuple(found)


@functools.lru_cache(maxsize=4096)
def plan_routes(sizes: tuple[int, ...], wires: tuple[Wire, ...] | None = None) -> tuple[Route, ...]:
    """Plan a sum over axes of these sizes, the busiest link as idle as can be.

    Slice after slice goes by the order of axes that leaves the loads most even (the sum of their
    16th powers the least), which comes within a slice of the best that any shares can do.

    Args:
        sizes: devices along each axis; axes of one device are passed over.
        wires: the links along each; where they are not given, each axis is one of the machine.
    """
    own = [("x" * (n + 1), size) for n, size in enumerate(sizes)]
    wires = wires or wires_of(own, [name for name, _ in own])
    long = [axis for axis, size in enumerate(sizes) if size > 1]
    if not long:
        return ()
    orders = list(itertools.permutations(long))
    one = {order: _loads(order, sizes, wires) for order in orders}
    total, taken = dict.fromkeys(one[orders[0]], Fraction(0)), dict.fromkeys(orders, 0)
    for _ in range(SLICES):

        def unevenness(order: tuple[int, ...]) -> float:
            loads = one[order]
            return sum(float(total[axis] + loads[axis]) ** _SHARPNESS for axis in total)

        best = min(orders, key=unevenness)
        taken[best] += 1
        for axis, load in one[best].items():
            total[axis] += load
    ways = (False, True) if any(sizes[axis] > 2 for axis in long) else (False,)
    return tuple(
        Route(Fraction(slices, SLICES * len(ways)), order, backward)
        for order, slices in taken.items()
        if slices
        for backward in ways
    )


def cut(routes: Sequence[Route], length: int, element_bytes: int) -> tuple[Chunk, ...]:
    """Cut an array into chunks, in the order in which they set out.

    Args:
        routes: of `plan_routes`.
        length: elements of the array.
        element_bytes: what one of them takes on its way; where each element stands for one a
            device (the columns of a reduce-scatter's blocks), of all of them.
    """
    size = min(max(length * element_bytes // CHUNKS, LEAST_CHUNK), LARGEST_CHUNK)
    if length * element_bytes <= LEAST_CHUNK:
        return (Chunk(0, length, 0),)
    chunks, start, done = [], 0, Fraction(0)
    for number, route in enumerate(routes):
        done += route.share
        end = int(length * done)
        count = math.ceil((end - start) * element_bytes / size)
        edges = [start + (end - start) * i // count for i in range(count + 1)] if count else []
        chunks += [
            # Chunks of all routes set out together: each is as far as its place among its own.
            ((2 * i + 1) / (2 * count), Chunk(first, last - first, number))
            for i, (first, last) in enumerate(itertools.pairwise(edges))
        ]
        start = end
    return tuple(chunk for _, chunk in sorted(chunks, key=lambda each: each[0]))


def _loads(
    order: Sequence[int], sizes: Sequence[int], wires: Sequence[Wire]
) -> dict[str, Fraction]:
    """Return by axis of the machine what one of its links carries each way of an array."""
    loads, left = dict.fromkeys((wires[axis].axis for axis in order), Fraction(0)), Fraction(1)
    for axis in order:
        loads[wires[axis].axis] += left * (sizes[axis] - 1) / sizes[axis] * wires[axis].load
        left /= sizes[axis]
    return loads
