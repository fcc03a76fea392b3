"""A process's connections to its neighbours on the torus, and what a call over them is told.

Native code (`native/engine.h`) carries a call out: a thread of its own sends, receives and adds.
"""

import ctypes
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fugaku_jax.collectives import native
from fugaku_jax.collectives.routes import cut, links_of, plan_routes, wires_of

KINDS = ("all_reduce", "reduce_scatter", "all_gather")
"""What can be asked for, by the number that the native code has for it."""

End = tuple[str, bool]
"""An axis, and whether the neighbour is the previous one along it."""


@dataclass(frozen=True)
class Links:
    """Connections of this process along some axes."""

    axes: tuple[tuple[str, int], ...]
    """Name and size of each axis, all longer than 1."""
    handle: int
    """Of the native engine."""

    def attributes(
        self, kind: str, axes: Sequence[str], length: int, element_bytes: int
    ) -> dict[str, int | list[int]]:
        """Return what the native code is told of a call, but for its tag.

        Args:
            kind: one of `KINDS`.
            axes: those of the call, in the order in which devices are counted.
            length: elements of the array of an all-reduce; of others the elements of each device.
            element_bytes: of an element.
        """
        sizes = dict(self.axes)
        numbers = [list(sizes).index(axis) for axis in axes]
        along = tuple(sizes[axis] for axis in axes)
        column = element_bytes * (1 if kind == "all_reduce" else math.prod(along))
        routes = plan_routes(along, wires_of(self.axes, axes))
        return {
            "torus": self.handle,
            "kind": KINDS.index(kind),
            "length": length,
            "axes": numbers,
            "legs": [2 * numbers[axis] + route.backward for route in routes for axis in route.axes],
            "chunks": [
                number
                for chunk in cut(routes, length, column)
                for number in (chunk.start, chunk.length, chunk.route)
            ],
        }

    def close(self) -> None:
        """Close the connections; calls that are under way fail."""
        native.functions().fugaku_torus_close(ctypes.c_int64(self.handle))


def neighbours(axes: Mapping[str, int], place: Mapping[str, int]) -> dict[End, dict[str, int]]:
    """Return where the neighbours of a place are; on an axis of two there is only the next.

    Args:
        axes: sizes by name; an axis of one device has no neighbours.
        place: the coordinate on each of them.
    """
    found = {}
    for axis, size in axes.items():
        for backward in (False, True)[: links_of(size)]:
            there = (place[axis] + (-1 if backward else 1)) % size
            found[axis, backward] = {**place, axis: there}
    return found


@dataclass(frozen=True)
class Seat:
    """Where a process is among the others, and what it calls them."""

    axes: Mapping[str, int]
    """Sizes by name, all longer than 1."""
    place: Mapping[str, int]
    """This process's coordinate on each."""
    names: Mapping[End, str]
    """What to call each of the `neighbours` in an error."""
    own_name: str
    """What to call this process."""

    def arguments(self) -> tuple[Any, ...]:
        """Return what the native code is told of the axes, and how many neighbours there are."""
        ends = list(self.names)

        def link(axis: str, backward: bool) -> int:
            return ends.index((axis, backward and self.axes[axis] > 2))

        return (
            ctypes.c_int64(len(self.axes)),
            numbers(list(self.axes.values())),
            numbers([self.place[axis] for axis in self.axes]),
            numbers([link(axis, False) for axis in self.axes]),
            numbers([link(axis, True) for axis in self.axes]),
            ctypes.c_int64(len(ends)),
        )

    @property
    def all_names(self) -> bytes:
        """A line for each name, this process's first."""
        return "\n".join((self.own_name, *self.names.values())).encode()


def open_links(seat: Seat, descriptors: Mapping[End, int]) -> Links:
    """Hand connected sockets to the native code, which closes them in the end.

    Args:
        seat: of this process.
        descriptors: of the socket to each neighbour.

    Raises:
        RuntimeError: there is no native library.
    """
    opened = native.functions().fugaku_torus_open
    opened.restype = ctypes.c_int64
    sockets = (ctypes.c_int * len(descriptors))(*(descriptors[end] for end in seat.names))
    return Links(tuple(seat.axes.items()), opened(*seat.arguments(), sockets, seat.all_names))


def numbers(values: Sequence[int]) -> ctypes.Array[ctypes.c_int64]:
    """Return numbers as an array of C's."""
    return (ctypes.c_int64 * len(values))(*values)
