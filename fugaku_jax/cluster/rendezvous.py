"""Where the processes of a job meet: each sends rank 0 one message and gets rank 0's answer.

A meeting is one line of JSON each way over TCP, so nothing that arrives is ever executed. It comes
before JAX's own service because it can say what that cannot: who is missing, and who differs.
"""

import asyncio
import contextlib
import ipaddress
import json
import random
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from fugaku_jax.cluster.host_environment import Hosts, split_address
from fugaku_jax.errors import InputError, RunError
from fugaku_jax.json_file import parse_json

Json = Any
"""What JSON can hold."""

MAX_BYTES = 1 << 20
"""The longest message that is read; a whole configuration takes some 4,000 bytes."""

_GRACE_SECONDS = 30.0
"""How much longer than rank 0 the others wait, so that rank 0 can say who is missing."""


class RendezvousError(RunError):
    """The processes did not meet."""


@dataclass(frozen=True)
class Arrival:
    """What a rank sent, and from where."""

    message: Json
    address: str | None
    """The address that the connection came from; None if from the coordinator's own host."""


Decide = Callable[[Mapping[int, Arrival]], Json]


def meet(hosts: Hosts, name: str, message: Json, decide: Decide) -> Json:
    """Wait until every rank has sent its message, and return what rank 0 decides about them.

    Args:
        hosts: this process among all.
        name: what the meeting is called; all ranks must come to the same one.
        message: what this rank sends, as plain JSON.
        decide: called on rank 0 with the arrival of each rank; its result must be plain JSON.

    Raises:
        InputError: on every rank, if `decide` raises it or two processes say they are one rank; on
            rank 0, if its port is taken.
        RendezvousError: ranks are missing after the time-out (they are named on every rank that is
            there), or rank 0 does not answer.
    """
    host, port = split_address("the coordinator", hosts.coordinator or "")
    if hosts.rank == 0:
        answer = asyncio.run(_Meeting(hosts, name, message).hold(host, port, decide))
    else:
        answer = _attend(hosts, host, port, name, message)
    if "refused" in answer:
        raise InputError(answer["refused"])
    if "failed" in answer:
        raise RendezvousError(answer["failed"])
    return answer["answer"]


def is_loopback(host: str) -> bool:
    """Tell whether a name or address leads back to the host that asks; not if it is unknown."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return False
    return all(ipaddress.ip_address(info[4][0]).is_loopback for info in found)


def only_this_host(host: str) -> bool:
    """Tell whether a coordinator is for one host by its spelling, so need not be open to others."""
    return host == "localhost" or (not host.strip("0123456789.:") and is_loopback(host))


def name_ranks(ranks: Iterable[int]) -> str:
    """Spell out ranks: `rank 3`, `ranks 1, 2 and 5`, `ranks 1 and 4–90`."""
    runs: list[list[int]] = []
    for rank in sorted(ranks):
        if runs and rank == runs[-1][-1] + 1:
            runs[-1].append(rank)
        else:
            runs.append([rank])
    words: list[str] = []
    for run in runs:
        words += map(str, run) if len(run) < 3 else [f"{run[0]}–{run[-1]}"]
    if len(runs) == len(runs[0]) == 1:
        return f"rank {words[0]}"
    return "ranks " + " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))


class _Meeting:
    """Rank 0's side."""

    def __init__(self, hosts: Hosts, name: str, message: Json) -> None:
        self.hosts, self.name = hosts, name
        self.arrived = {0: Arrival(message, None)}
        self.contradiction: str | None = None
        self.ended = asyncio.Event()
        self.answer: bytes | None = None
        self.answered = asyncio.Event()
        self.served: set[asyncio.Task[Any]] = set()

    async def hold(self, host: str, port: int, decide: Decide) -> dict[str, Json]:
        """Collect what the others send, decide, and tell all."""
        server = await self._listen(host, port)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.ended.wait(), self.hosts.timeout_seconds)
        answer = self._decide(decide)
        self.answer = json.dumps(answer).encode() + b"\n"
        self.answered.set()
        server.close()
        if self.served:
            await asyncio.wait(self.served, timeout=_GRACE_SECONDS)
        return answer

    async def _listen(self, host: str, port: int) -> asyncio.Server:
        try:
            return await asyncio.start_server(
                self._serve,
                host if only_this_host(host) else None,
                port,
                limit=MAX_BYTES,
                backlog=min(self.hosts.n_processes + 8, 4096),
            )
        except OSError as error:
            raise InputError(
                f"Rank 0 cannot listen on port {port} ({error.strerror or error}); set "
                "FUGAKU_JAX_COORDINATOR to its host and a free port there in every process."
            ) from error

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take one rank's message and give it the answer when there is one."""
        try:
            said = self._understand(await reader.readline())
            if said is None:
                return
            if task := asyncio.current_task():
                self.served.add(task)
            peer, own = writer.get_extra_info("peername")[0], writer.get_extra_info("sockname")[0]
            self._admit(said, None if peer == own or is_loopback(peer) else peer)
            await self.answered.wait()
            writer.write(self.answer or b"")
            await writer.drain()
        except (OSError, ValueError):  # it went away, or its line is too long
            return
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    def _understand(self, line: bytes) -> dict[str, Json] | None:
        """Read a line; None if it comes from a stranger or from another meeting."""
        try:
            said = parse_json(line, "a message")
        except InputError:
            return None
        expected = {"meeting": str, "processes": int, "rank": int, "message": object}
        if said.keys() != expected.keys():
            return None
        if not all(isinstance(said[key], kind) for key, kind in expected.items()):
            return None
        return said if said["meeting"] == self.name else None

    def _admit(self, said: dict[str, Json], address: str | None) -> None:
        rank, n_processes = said["rank"], self.hosts.n_processes
        if said["processes"] != n_processes:
            self.contradiction = (
                f"Rank {rank} was told of {said['processes']} processes, but rank 0 of "
                f"{n_processes}; start all with the same number."
            )
        elif rank in self.arrived or not 0 < rank < n_processes:
            self.contradiction = (
                f"Two processes say that they are rank {rank}; give each its own rank."
            )
        else:
            self.arrived[rank] = Arrival(said["message"], address)
        if self.contradiction or len(self.arrived) == n_processes:
            self.ended.set()

    def _decide(self, decide: Decide) -> dict[str, Json]:
        missing = set(range(self.hosts.n_processes)) - self.arrived.keys()
        if self.contradiction:
            return {"refused": self.contradiction}
        if missing:
            return {"failed": _absence(self.hosts, missing)}
        try:
            return {"answer": decide(self.arrived)}
        except InputError as error:
            return {"refused": str(error)}


def _absence(hosts: Hosts, missing: set[int]) -> str:
    sentence = (
        f"{name_ranks(missing).capitalize()} of {hosts.n_processes} did not arrive at "
        f"{hosts.coordinator} within {hosts.timeout_seconds:g} s"
    )
    if len(missing) == hosts.n_processes - 1:
        sentence += f"; is that an address of {socket.gethostname()}, where rank 0 runs"
        return f"{sentence}, and can the other hosts reach it?"
    return f"{sentence}."


def _attend(hosts: Hosts, host: str, port: int, name: str, message: Json) -> dict[str, Json]:
    """Be another rank: send the message, and wait for the answer."""
    said = {"meeting": name, "processes": hosts.n_processes, "rank": hosts.rank, "message": message}
    where = f"at {hosts.coordinator}"
    with _connect(hosts, host, port, where) as connection:
        try:
            connection.settimeout(hosts.timeout_seconds + _GRACE_SECONDS)
            connection.sendall(json.dumps(said).encode() + b"\n")
            line = connection.makefile("rb").readline(MAX_BYTES)
        except OSError as error:
            raise RendezvousError(f"Rank 0 {where} went away ({error}).") from error
    try:
        return parse_json(line, "the answer")
    except InputError:
        raise RendezvousError(
            f"What listens {where} is not rank 0 of this job, or it went away."
        ) from None


def _connect(hosts: Hosts, host: str, port: int, where: str) -> socket.socket:
    """Connect to rank 0 as soon as it is there."""
    deadline = time.monotonic() + hosts.timeout_seconds
    pause = 0.05
    while True:
        try:
            return socket.create_connection((host, port), timeout=10)
        except OSError as error:
            if time.monotonic() > deadline:
                raise RendezvousError(
                    f"Rank 0 did not answer {where} within {hosts.timeout_seconds:g} s ({error}); "
                    "is it running, and is that an address of its host?"
                ) from error
        # Thousands of ranks that start together must not knock together.
        time.sleep(pause * random.uniform(0.5, 1))
        pause = min(2 * pause, 2.0)
