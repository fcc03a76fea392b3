"""Which process of how many this is, and where they meet: read from the environment variables."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from fugaku_jax.cluster.launchers import LAUNCHERS, Launcher
from fugaku_jax.errors import InputError

Collectives = Literal["gloo", "mpi"]

_OWN = {
    "coordinator": "FUGAKU_JAX_COORDINATOR",
    "n_processes": "FUGAKU_JAX_PROCESSES",
    "rank": "FUGAKU_JAX_PROCESS",
}


@dataclass(frozen=True)
class Hosts:
    """This process among all of its job."""

    n_processes: int
    """Processes in the job."""
    rank: int
    """This process, from 0."""
    coordinator: str | None
    """HOST:PORT at which rank 0 waits for the others; None if there are no others."""
    local_rank: int | None = None
    """This process among those of its host, from 0; None if the launcher does not tell."""
    n_hosts: int | None = None
    """Hosts in the job; None if the launcher does not tell."""
    collectives: Collectives = "gloo"
    """What carries sums over the torus (FUGAKU_JAX_COLLECTIVES)."""
    timeout_seconds: float = 300.0
    """How long the ranks wait for each other (FUGAKU_JAX_TIMEOUT)."""
    rule: str = "arguments"
    """Whose variables said all this."""


def find_hosts(
    environ: Mapping[str, str],
    coordinator: str | None = None,
    n_processes: int | None = None,
    rank: int | None = None,
) -> Hosts | None:
    """Find out which process of how many this is.

    An argument wins over FUGAKU_JAX_COORDINATOR, FUGAKU_JAX_PROCESSES or FUGAKU_JAX_PROCESS, and
    each of these over what the launcher says (`LAUNCHERS`).

    Args:
        environ: the environment variables.
        coordinator: HOST:PORT at which rank 0 can be reached (`--coordinator`).
        n_processes: processes in the job (`--processes`).
        rank: this process, from 0 (`--process`).

    Returns:
        what was found; None if nothing speaks of more processes than this one.

    Raises:
        InputError: a variable is missing, is no number, or contradicts another.
    """
    given = {key: (name, environ[name]) for key, name in _OWN.items() if environ.get(name)}
    arguments = {
        "coordinator": ("--coordinator", coordinator),
        "n_processes": ("--processes", n_processes),
        "rank": ("--process", rank),
    }
    given |= {key: (name, str(x)) for key, (name, x) in arguments.items() if x is not None}
    launcher = None
    if not {"rank", "n_processes"} <= given.keys():
        launcher = next((x for x in LAUNCHERS if all(map(environ.get, x.markers))), None)
    if launcher is None and not given:
        return None
    size_name, size = _number(environ, "n_processes", given, launcher)
    rank_name, number = _number(environ, "rank", given, launcher)
    if size < 1:
        raise InputError(f"{size_name} is {size}, but there is at least one process.")
    if not 0 <= number < size:
        raise InputError(
            f"{rank_name} is {number}, but it must be from 0 to {size - 1}, since {size_name} is "
            f"{size}."
        )
    hosts = {"local_rank": None, "n_hosts": None}
    if launcher:
        hosts = _placement(environ, launcher, size)
    return Hosts(
        n_processes=size,
        rank=number,
        coordinator=_coordinator(environ, given, launcher, size) if size > 1 else None,
        collectives=_collectives(environ),
        timeout_seconds=_timeout(environ),
        rule=launcher.name if launcher else given["rank"][0],
        **hosts,
    )


def split_address(name: str, address: str) -> tuple[str, int]:
    """Split HOST:PORT, or [HOST]:PORT for an IPv6 address.

    Raises:
        InputError: it is neither; `name` is what the sentence calls it.
    """
    match = re.fullmatch(r"(?:\[([^\[\]\s]+)\]|([^\[\]:\s]+)):(\d{1,5})", address.strip())
    if not match or not 0 < int(match[3]) < 65_536:
        raise InputError(f"{name} is {address!r}, but it must be HOST:PORT, as in node001:61500.")
    return match[1] or match[2], int(match[3])


def _number(
    environ: Mapping[str, str],
    key: str,
    given: Mapping[str, tuple[str, str]],
    launcher: Launcher | None,
) -> tuple[str, int]:
    """Return the name of the variable that tells the rank or the number of processes, and it."""
    names = getattr(launcher, key) if launcher else ()
    found = given.get(key) or _first(environ, names)
    if found is None:
        there = launcher.markers[0] if launcher else next(iter(given.values()))[0]
        raise InputError(
            f"{there} is set, but {' or '.join((*names, _OWN[key]))} is not; set "
            f"{_OWN[key]} in every process."
        )
    return found[0], _integer(*found)


def _first(environ: Mapping[str, str], names: tuple[str, ...]) -> tuple[str, str] | None:
    return next(((name, environ[name]) for name in names if environ.get(name)), None)


def _integer(name: str, text: str) -> int:
    if not re.fullmatch(r"-?\d{1,9}", text.strip(), re.ASCII):
        raise InputError(f"{name} is {text!r}, but it must be a whole number.")
    return int(text)


def _placement(
    environ: Mapping[str, str], launcher: Launcher, n_processes: int
) -> dict[str, int | None]:
    """Return the rank within the host and the number of hosts, as far as the launcher tells."""
    local_rank, n_hosts, local_processes = (
        (found := _first(environ, names)) and _integer(*found)
        for names in (launcher.local_rank, launcher.n_hosts, launcher.local_processes)
    )
    if n_hosts is None and local_processes:
        n_hosts = -(-n_processes // local_processes)
    return {"local_rank": local_rank, "n_hosts": n_hosts}


def _coordinator(
    environ: Mapping[str, str],
    given: Mapping[str, tuple[str, str]],
    launcher: Launcher | None,
    n_processes: int,
) -> str:
    name, address = given.get("coordinator", (None, None))
    if launcher and not address:
        name, address = f"The coordinator of {launcher.name}", launcher.coordinator(environ)
    if not name or not address:
        raise InputError(
            f"There are {n_processes} processes, but nothing says where they meet; set "
            "FUGAKU_JAX_COORDINATOR to HOST:PORT of process 0's host in every process."
        )
    host, port = split_address(name, address)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def messages() -> Collectives:
    """Return what carries sums over the torus: with `gloo`, which has none, TCP does.

    Raises:
        InputError: FUGAKU_JAX_COLLECTIVES names something else.
    """
    return _collectives(os.environ)


def _collectives(environ: Mapping[str, str]) -> Collectives:
    chosen = environ.get("FUGAKU_JAX_COLLECTIVES") or "gloo"
    for each in get_args(Collectives):
        if chosen == each:
            return each
    raise InputError(f"FUGAKU_JAX_COLLECTIVES is {chosen!r}, but it must be gloo or mpi.")


def _timeout(environ: Mapping[str, str]) -> float:
    text = environ.get("FUGAKU_JAX_TIMEOUT") or str(Hosts.timeout_seconds)
    if not re.fullmatch(r"\d{1,6}(\.\d*)?", text, re.ASCII) or float(text) == 0:
        raise InputError(f"FUGAKU_JAX_TIMEOUT is {text!r}, but it must be a number of seconds.")
    return float(text)
