"""How a process comes to be connected to its neighbours on the torus.

Each tells by JAX's coordination service where it can be reached and reads where its neighbours can,
so nobody hears from more than those.
"""

import contextlib
import functools
import json
import secrets
import socket
import struct
import sys
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from fugaku_jax.cluster.host_environment import messages
from fugaku_jax.cluster.hosts import own_address
from fugaku_jax.cluster.rank_names import sentence
from fugaku_jax.cluster.rendezvous import RendezvousError
from fugaku_jax.collectives import mpi, native
from fugaku_jax.collectives.links import End, Links, Seat, neighbours, open_links

PATIENCE_SECONDS = 300.0
"""How long processes wait for each other."""

_KEY_BYTES = 16
_HELLO = struct.Struct(f"!{_KEY_BYTES}sii")  # the key of whom it is for; axis; whether backward


@functools.cache
def connect(mesh: Mesh) -> Links | None:
    """Connect this process to its neighbours; all processes of the mesh must ask for it.

    Args:
        mesh: of one device in each process.

    Returns:
        the connections; None where sums over the torus cannot be, which is said once, or need not
        be, as in a single process.

    Raises:
        RendezvousError: a neighbour does not answer.
    """
    if jax.process_count() == 1:
        return None
    if mesh.size != jax.process_count() or len(mesh.local_devices) != 1:
        _say("they need a mesh of one device in each process")
        return None
    return _Neighbourhood(mesh).hold()


class _Neighbourhood:
    """All processes of a mesh, from one of them."""

    def __init__(self, mesh: Mesh) -> None:
        from jax._src.distributed import global_state

        self._client: Any = global_state.client
        self._axes = {axis: size for axis, size in mesh.shape.items() if size > 1}
        ranks = np.vectorize(lambda device: device.process_index, otypes=[int])(mesh.devices)
        self._ranks = ranks.reshape(tuple(self._axes.values()))
        self._own = jax.process_index()
        self._folder = f"fugaku_jax/torus/{zlib.crc32(repr((self._axes, ranks)).encode()):08x}"

    def hold(self) -> Links | None:
        """Connect, or agree that it cannot be."""
        key = secrets.token_bytes(_KEY_BYTES)
        why = "" if native.available() else "no native library was built for this processor"
        with socket.create_server(("", 0), family=_family(), backlog=64) as server:
            port = server.getsockname()[1]
            if not why and messages() == "mpi":
                why = mpi.obstacle(self._own)
            if why:
                self._client.key_value_set(f"{self._folder}/not/{self._own}", why)
            else:
                there = json.dumps([own_address(), port, key.hex()])
                self._client.key_value_set(f"{self._folder}/at/{self._own}", there)
            self._client.wait_at_barrier(self._folder, int(1000 * PATIENCE_SECONDS))
            if obstacles := self._client.key_value_dir_get(f"{self._folder}/not/"):
                _say(obstacles[0][1])
                return None
            place = self._place(self._own)
            names = {
                end: self._name(self._rank(there))
                for end, there in neighbours(self._axes, place).items()
            }
            seat = Seat(self._axes, place, names, self._name(self._own))
            if messages() == "mpi":
                there = neighbours(self._axes, place)
                return mpi.open_links(seat, {end: self._rank(there[end]) for end in names})
            return self._open(seat, server, key)

    def _open(self, seat: Seat, server: socket.socket, key: bytes) -> Links:
        found: dict[End, socket.socket] = {}
        with contextlib.ExitStack() as opened:
            try:
                # Each calls the next along every axis; of two, the first calls.
                for number, (axis, size) in enumerate(self._axes.items()):
                    if size > 2 or seat.place[axis] == 0:
                        rank = self._rank(neighbours(self._axes, seat.place)[axis, False])
                        found[axis, False] = opened.enter_context(self._call(rank, number))
                while len(found) < len(seat.names):
                    end, came = self._accept(server, key)
                    found[end] = opened.enter_context(came)
            except OSError as error:
                missing = " and ".join(name for end, name in seat.names.items() if end not in found)
                raise RendezvousError(
                    f"{sentence(seat.own_name)} cannot connect to {missing} for sums over the "
                    f"torus ({error.strerror or error}); see that hosts reach each other by the "
                    "names that they have for themselves."
                ) from error
            return open_links(seat, {end: found[end].detach() for end in seat.names})

    def _call(self, rank: int, axis: int) -> socket.socket:
        told = self._client.blocking_key_value_get(
            f"{self._folder}/at/{rank}", int(1000 * PATIENCE_SECONDS)
        )
        address, port, key = json.loads(told)
        called = socket.create_connection((address, port), PATIENCE_SECONDS)
        called.sendall(_HELLO.pack(bytes.fromhex(key), axis, False))
        return called

    def _accept(self, server: socket.socket, key: bytes) -> tuple[End, socket.socket]:
        """Wait for a neighbour; whoever does not know the key is none."""
        server.settimeout(PATIENCE_SECONDS)
        while True:
            came, _ = server.accept()
            came.settimeout(10)
            said = b""
            with contextlib.suppress(OSError):
                while len(said) < _HELLO.size and (more := came.recv(_HELLO.size - len(said))):
                    said += more
            if len(said) == _HELLO.size and secrets.compare_digest(said[:_KEY_BYTES], key):
                _, number, _ = _HELLO.unpack(said)
                axis = list(self._axes)[number]
                return (axis, self._axes[axis] > 2), came
            came.close()

    def _rank(self, place: Mapping[str, int]) -> int:
        return int(self._ranks[tuple(place.values())])

    def _place(self, rank: int) -> dict[str, int]:
        (where,) = np.argwhere(self._ranks == rank).tolist()
        return dict(zip(self._axes, where, strict=True))

    def _name(self, rank: int) -> str:
        place = " ".join(f"{axis}{number}" for axis, number in self._place(rank).items())
        return f"rank {rank} ({place})"


def _say(why: str) -> None:
    if jax.process_index() == 0:
        print(f"No sums over the torus: {why}. XLA's collectives sum.", file=sys.stderr)


def _family() -> socket.AddressFamily:
    """Return what an address of this host's name is of."""
    return socket.AF_INET6 if ":" in (own_address() or "") else socket.AF_INET
