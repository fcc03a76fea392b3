"""Ranks of a torus as threads of this process, joined by pairs of sockets: no JAX, no network."""

import ctypes
import itertools
import socket
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from fugaku_jax.collectives import native
from fugaku_jax.collectives.links import Links, Seat, neighbours, open_links

TYPES = {"float32": 0, "bfloat16": 1, "float16": 2, "int32": 3, "uint32": 3}
BYTES = 4


class SumError(Exception):
    """What the native code says went wrong."""


class Ranks:
    """All ranks of a torus of these sizes."""

    def __init__(self, **axes: int) -> None:
        self.axes = axes
        self.places = [
            dict(zip(axes, place, strict=True))
            for place in itertools.product(*map(range, axes.values()))
        ]
        ends = [neighbours(axes, place) for place in self.places]
        sockets = [{} for _ in self.places]
        for rank, each in enumerate(ends):
            for (axis, backward), there in each.items():
                other = self.places.index(there)
                back = (axis, not backward and axes[axis] > 2)
                if (axis, backward) not in sockets[rank]:
                    one, two = socket.socketpair()
                    sockets[rank][axis, backward], sockets[other][back] = one, two
        self.links: list[Links] = [
            open_links(
                Seat(
                    axes,
                    place,
                    {end: f"rank {self.places.index(at)}" for end, at in ends[rank].items()},
                    f"rank {rank}",
                ),
                {end: sockets[rank][end].detach() for end in ends[rank]},
            )
            for rank, place in enumerate(self.places)
        ]
        self.pool = ThreadPoolExecutor(len(self.links))

    def __enter__(self) -> "Ranks":
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.shutdown()
        for each in self.links:
            each.close()

    def run(self, kind: str, inputs: list[np.ndarray], axes: list[str], tag: int = 0):
        """Carry one call out on all ranks; the list of their results."""
        each = range(len(self.links))
        return list(self.pool.map(lambda rank: self.one(rank, kind, inputs[rank], axes, tag), each))

    def one(self, rank: int, kind: str, x: np.ndarray, axes: list[str], tag: int = 0):
        """Carry a call out on one rank."""
        devices = int(np.prod([self.axes[axis] for axis in axes]))
        length = x.size // devices if kind == "reduce_scatter" else x.size
        shape = {
            "all_reduce": x.shape,
            "reduce_scatter": (length,),
            "all_gather": (devices, length),
        }
        y = np.empty(shape[kind], x.dtype)
        size, type_ = x.itemsize, TYPES[x.dtype.name]
        if kind == "all_gather":
            length, size, type_ = length * x.itemsize, 1, BYTES
        told = self.links[rank].attributes(kind, axes, length, size)
        said = ctypes.create_string_buffer(500)

        def array(name):
            values = told[name]
            return ctypes.c_int64(len(values)), (ctypes.c_int64 * len(values))(*values)

        failed = native.functions().fugaku_torus_run(
            *map(ctypes.c_int64, (told["torus"], tag, told["kind"], type_)),
            ctypes.c_void_p(x.ctypes.data),
            ctypes.c_void_p(y.ctypes.data),
            ctypes.c_int64(length),
            *(*array("axes"), *array("legs"), *array("chunks")),
            said,
            ctypes.c_int64(len(said)),
        )
        if failed:
            raise SumError(said.value.decode())
        return y
