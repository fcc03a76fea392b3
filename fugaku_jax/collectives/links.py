"""A process's connections to its neighbours on the torus, and what a call over them is told.

Native code (`native/engine.h`) carries a call out: a thread of its own sends, receives and adds.
"""

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fugaku_jax.collectives.routes import cut, links_of, plan_routes
from fugaku_jax.kernels import native

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
        devices = 1
        for size in along:
            devices *= size
        column = element_bytes if kind == "all_reduce" else element_bytes * devices
        routes = plan_routes(along)
        return {
            "torus": self.handle,
            "kind": KINDS.index(kind),
            "length": length,
            "axes": numbers,
            "legs": [2 * numbers[axis] + route.backward for route in routes for axis in route.axes],
            "chunks": [
                number
                for chunk in cut(along, length, column)
                for number in (chunk.start, chunk.length, chunk.route)
            ],
        }

    def close(self) -> None:
        """Close the connections; calls that are under way fail."""
        if (library := native.library()) is not None:
            library.fugaku_torus_close(ctypes.c_int64(self.handle))


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


def open_links(
    axes: Mapping[str, int],
    place: Mapping[str, int],
    descriptors: Mapping[End, int],
    names: Mapping[End, str],
    own_name: str,
) -> Links:
    """Hand connected sockets to the native code, which closes them in the end.

    Args:
        axes: sizes by name, all longer than 1.
        place: this process's coordinate on each.
        descriptors: of the socket to each of the `neighbours`.
        names: what to call each of these in an error.
        own_name: what to call this process.

    Raises:
        RuntimeError: there is no native library.
    """
    library = native.library()
    if library is None:
        raise RuntimeError("sums over the torus need the native library")
    ends = list(descriptors)

    def numbers(values: Sequence[int]) -> ctypes.Array[ctypes.c_int64]:
        return (ctypes.c_int64 * len(values))(*values)

    def link(axis: str, backward: bool) -> int:
        return ends.index((axis, backward and axes[axis] > 2))

    library.fugaku_torus_open.restype = ctypes.c_int64
    handle = library.fugaku_torus_open(
        ctypes.c_int64(len(axes)),
        numbers(list(axes.values())),
        numbers([place[axis] for axis in axes]),
        numbers([link(axis, False) for axis in axes]),
        numbers([link(axis, True) for axis in axes]),
        ctypes.c_int64(len(ends)),
        (ctypes.c_int * len(ends))(*(descriptors[end] for end in ends)),
        "\n".join((own_name, *(names[end] for end in ends))).encode(),
    )
    return Links(tuple(axes.items()), handle)
