"""Signs of life: each rank tells rank 0 every so often how far it is, and hears from it.

A line of JSON each way over TCP, so nothing that arrives is ever executed. It stands beside JAX's
own heartbeats because it can say what these cannot: how far a rank is, and what it is waiting for.
"""

import asyncio
import contextlib
import hmac
import json
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fugaku_jax.errors import InputError
from fugaku_jax.json_file import parse_json

MAX_BYTES = 1 << 16
"""The longest line that is read; a sign of life takes some 100 bytes."""

_CONNECT_SECONDS = 60.0


@dataclass
class Peer:
    """Another rank, as this one hears of it. Times are those of the clock that the channel has."""

    heard: float
    """When it last said anything; the beginning, if it has not."""
    step: int = -1
    """The last step that it has completed; -1 before the first that it was to take."""
    doing: str = ""
    """Where its program is."""
    has_left: bool = False
    """Whether it has said that it comes to its end."""
    lost: float | None = None
    """When the connection ended without such a word."""
    verdict: tuple[str, bool] | None = None
    """Why it ends the job, and whether stacks are to be shown."""

    def hear(self, line: dict[str, Any], now: float) -> None:
        """Take in what it says; what is no such word is passed over."""
        self.heard = now
        match line:
            case {"step": int(step), "doing": str(doing)}:
                self.step, self.doing = step, doing
            case {"leaves": True}:
                self.has_left = True
            case {"ends": str(sentence), "stacks": bool(stacks)}:
                self.verdict = sentence, stacks


@dataclass(frozen=True)
class Meeting:
    """Where the signs of life of a job go."""

    n_processes: int
    """Ranks of the job."""
    rank: int
    """This one."""
    place: socket.socket | tuple[str, int]
    """What rank 0 listens on; for the others its host and port."""
    key: str
    """What ranks show at their arrival, so that no stranger is taken for one."""


def listen(host: str) -> socket.socket:
    """Listen on a free port of an address of rank 0's; of all its addresses if it is empty."""
    if host and ":" not in host:
        return socket.create_server((host, 0))
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if host or both else socket.AF_INET
    return socket.create_server((host, 0), family=family, dualstack_ipv6=both and not host)


class Channel:
    """The connections of a rank: of rank 0 to all others, of the others to rank 0.

    It lives in one event loop, and never waits for anybody.
    """

    def __init__(
        self, meeting: Meeting, clock: Callable[[], float], wake: Callable[[], None]
    ) -> None:
        """Make them; `wake` is called when one is lost."""
        self._meeting, self._clock, self._wake = meeting, clock, wake
        others = range(1, meeting.n_processes) if meeting.rank == 0 else (0,)
        self.peers = {rank: Peer(clock()) for rank in others}
        self._writers: dict[int, asyncio.StreamWriter] = {}
        self._tasks: set[asyncio.Task[Any]] = set()  # that listen

    async def open(self) -> None:
        """Listen on rank 0; elsewhere connect to it, which goes on while this returns."""
        place = self._meeting.place
        if isinstance(place, socket.socket):
            backlog = min(self._meeting.n_processes + 8, 4096)
            await asyncio.start_server(self._admit, sock=place, limit=MAX_BYTES, backlog=backlog)
        else:
            self._opening = asyncio.create_task(self._connect(*place))

    def say(self, **words: object) -> None:
        """Tell every peer that is there."""
        line = json.dumps(words).encode() + b"\n"
        for writer in self._writers.values():
            if not writer.is_closing():
                writer.write(line)

    async def leave(self, seconds: float) -> None:
        """Say that this rank comes to its end, and see to it that this is heard."""
        self.say(leaves=True)
        for writer in self._writers.values():
            with contextlib.suppress(OSError):
                writer.write_eof()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=seconds)

    async def _admit(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take what connects for a rank if it knows the key."""
        hello = await _read(reader)
        rank = hello.get("rank") if hello else None
        key = str(hello.get("key")) if hello else ""
        if not hmac.compare_digest(key.encode(), self._meeting.key.encode()) or (
            rank not in self.peers or rank in self._writers
        ):
            writer.close()
            return
        await self._listen(rank, reader, writer)

    async def _connect(self, host: str, port: int) -> None:
        try:
            opening = asyncio.open_connection(host, port, limit=MAX_BYTES)
            reader, writer = await asyncio.wait_for(opening, _CONNECT_SECONDS)
        except OSError:  # a time-out is one, too
            self._lose(self.peers[0])
            return
        writer.write(json.dumps({"key": self._meeting.key, "rank": self._meeting.rank}).encode())
        writer.write(b"\n")
        await self._listen(0, reader, writer)

    async def _listen(
        self, rank: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        peer, self._writers[rank] = self.peers[rank], writer
        if task := asyncio.current_task():
            self._tasks.add(task)
        while not peer.has_left and (line := await _read(reader)):
            peer.hear(line, self._clock())
        self._lose(peer)
        writer.close()

    def _lose(self, peer: Peer) -> None:
        peer.lost = self._clock()
        self._wake()


async def _read(reader: asyncio.StreamReader) -> dict[str, Any] | None:
    """Read a line; None at the end, or if it is none of ours."""
    with contextlib.suppress(OSError, ValueError, InputError):  # ValueError: it is too long
        if line := await reader.readline():
            return parse_json(line, "a sign of life")
    return None
