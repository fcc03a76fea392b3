"""Sums over the torus whose messages go over the machine's own MPI.

One MPI's handles are pointers and another's are numbers, so a few C functions are compiled by the
machine's `mpicc` when they are first asked for, and kept in the user's cache.
"""

import atexit
import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from fugaku_jax.cluster.rendezvous import RendezvousError
from fugaku_jax.collectives import native
from fugaku_jax.collectives.links import End, Links, Seat, numbers
from fugaku_jax.compile_cache import user_cache

COMPILERS = ("mpicc", "mpifcc")
"""Names under which MPI's C compiler is looked for; Fujitsu's is the second."""

_SOURCE = Path(__file__).with_name("native") / "shim" / "mpi_shim.c"


def obstacle(rank: int) -> str:
    """Start MPI, and say what keeps this process from it; empty if nothing does.

    Args:
        rank: of this process in the job, which must be MPI's.
    """
    try:
        own, size = ctypes.c_int(-1), ctypes.c_int(0)
        started = _shim().fugaku_mpi_start(ctypes.byref(own), ctypes.byref(size))
    except (OSError, RuntimeError) as error:
        return str(error)
    if started < 0:
        return "MPI lets only one thread send messages"
    if started or own.value != rank:
        return (
            f"MPI calls rank {rank} of the job rank {own.value} of {size.value}; "
            "start the job by its mpirun"
        )
    return ""


def open_links(seat: Seat, ranks: Mapping[End, int]) -> Links:
    """Begin to exchange messages with neighbours; all processes do so together.

    Args:
        seat: of this process.
        ranks: of each neighbour, MPI's.

    Raises:
        RendezvousError: MPI refuses.
    """
    said = ctypes.create_string_buffer(500)
    axes = list(seat.axes)
    peers: list[int] = []
    for axis, backward in seat.names:
        # What goes to the next comes from the previous one; of two, each is both.
        there = 2 * axes.index(axis) + backward
        back = 2 * axes.index(axis) + (not backward and seat.axes[axis] > 2)
        peers += [ranks[axis, backward], there, back]
    opened = native.functions().fugaku_torus_open_mpi
    opened.restype = ctypes.c_int64
    handle = opened(
        *(*seat.arguments(), numbers(peers), seat.all_names, str(_path()).encode(), said),
        ctypes.c_int64(len(said)),
    )
    if not handle:
        raise RendezvousError(f"Sums over the torus cannot use MPI: {said.value.decode()}.")
    links = Links(tuple(seat.axes.items()), handle)
    atexit.register(links.close)  # before MPI ends
    return links


@functools.cache
def _shim() -> ctypes.CDLL:
    # MPI looks for libraries of its own among the symbols of its first one.
    library = ctypes.CDLL(str(_path()), ctypes.RTLD_GLOBAL)
    atexit.register(library.fugaku_mpi_stop)
    return library


@functools.cache
def _path() -> Path:
    """Compile the functions, unless they are there.

    Raises:
        RuntimeError: there is no compiler, or it fails.
    """
    compiler = next(filter(None, map(shutil.which, COMPILERS)), None)
    if compiler is None:
        raise RuntimeError(f"there is no MPI here, as {' and '.join(COMPILERS)} are missing")
    said = subprocess.run([compiler, "-show"], capture_output=True, text=True, check=False)
    version = f"{os.path.realpath(compiler)} {said.stdout}".encode() + _SOURCE.read_bytes()
    cache = user_cache()
    cache.mkdir(parents=True, exist_ok=True)
    path = cache / f"mpi-{hashlib.sha256(version).hexdigest()[:16]}.so"
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            made = Path(folder) / path.name
            command = [compiler, "-shared", "-fPIC", "-O2", str(_SOURCE), "-o", str(made)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise RuntimeError(f"{compiler} failed: {done.stderr.strip()[-300:]}")
            made.replace(path)
    return path
