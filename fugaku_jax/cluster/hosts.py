"""The processes of a job, on one host or many: who they are, that all came, that all agree.

With one process nothing here does anything, and JAX is not imported.
"""

import contextlib
import json
import os
import secrets
import socket
import sys
from collections.abc import Iterator, Mapping
from typing import NoReturn

from fugaku_jax.cluster.heartbeat import Meeting, listen
from fugaku_jax.cluster.host_environment import Hosts, find_hosts, split_address
from fugaku_jax.cluster.launchers import LAUNCHERS
from fugaku_jax.cluster.rank_names import RankNames
from fugaku_jax.cluster.rendezvous import (
    Arrival,
    Json,
    RendezvousError,
    is_loopback,
    meet,
    name_ranks,
    only_this_host,
)
from fugaku_jax.cluster.watchdog import SILENT_SECONDS, Watchdog
from fugaku_jax.config import flat_fields
from fugaku_jax.errors import InputError

__all__ = ["Hosts", "RendezvousError", "agree", "find_hosts", "join", "leave"]

_SHOWN = 3
"""How many differing fields, and values of one, a sentence names."""


def join(hosts: Hosts | None) -> Watchdog:
    """Make the processes of a job one JAX program; call it before anything touches a device.

    Every rank waits for all others, so a late one is no failure. Then JAX's own service starts on
    a free port of rank 0's host, and XLA's collectives go over gloo. From then on all end, with a
    sentence, once a rank has ended before the others or is silent.

    Args:
        hosts: what `find_hosts` found; nothing happens for None or a single process.

    Returns:
        what watches the processes, and can watch their steps.

    Raises:
        InputError: the processes cannot reach each other by the addresses they have.
        RendezvousError: a rank is missing after `hosts.timeout_seconds`; the sentence names it.
    """
    if hosts is None or hosts.n_processes == 1:
        return Watchdog()
    host, _ = split_address("the coordinator", hosts.coordinator or "")
    if (hosts.n_hosts or 1) > 1 and is_loopback(host):
        raise InputError(
            f"The coordinator is {hosts.coordinator}, which leads back to the host that asks, but "
            f"{hosts.rule} speaks of {hosts.n_hosts} hosts; set FUGAKU_JAX_COORDINATOR to "
            "HOST:PORT with an address of rank 0's host that the others can reach."
        )
    me = {"host": socket.gethostname(), "address": own_address()}
    beats = listen(host if only_this_host(host) else "") if hosts.rank == 0 else None
    names: dict[int, str] = {}

    def open_ports(arrivals: Mapping[int, Arrival]) -> Json:
        _check_addresses(arrivals)
        names.update({rank: arrival.message["host"] for rank, arrival in arrivals.items()})
        with socket.create_server(("", 0)) as server:
            jax_port = server.getsockname()[1]
        port = beats.getsockname()[1] if beats else None
        return {"host": me["host"], "jax": jax_port, "beats": port, "key": secrets.token_hex()}

    opened = meet(hosts, "join", me, open_ports)
    place = beats or (host, opened["beats"])
    meeting = Meeting(hosts.n_processes, hosts.rank, place, opened["key"])
    # Who starts ranks by hand may well go and leave them.
    parent = os.getppid() if hosts.rule in {each.name for each in LAUNCHERS} else None
    watchdog = Watchdog(meeting, RankNames(names or {0: opened["host"]}), parent)

    import jax

    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # It would take SIGTERM for itself, which asks the trainer to save and stop.
    jax.config.update("jax_enable_preemption_service", False)
    address = f"[{host}]:{opened['jax']}" if ":" in host else f"{host}:{opened['jax']}"
    with _without_proxies():
        jax.distributed.initialize(
            address,
            num_processes=hosts.n_processes,
            process_id=hosts.rank,
            # All is known: JAX need not look for a launcher of its own.
            cluster_detection_method="deactivate",
            initialization_timeout=max(int(hosts.timeout_seconds), 1),
            coordinator_bind_address=address if only_this_host(host) else None,
            # Our watchdog knows more of a silent rank than JAX, and is to come before it.
            heartbeat_timeout_seconds=int(5 * SILENT_SECONDS),
        )
    return watchdog


def agree(hosts: Hosts | None, name: str, fields: Mapping[str, Json]) -> None:
    """Refuse to go on unless every rank has the same values.

    Args:
        hosts: what `find_hosts` found; nothing happens for None or a single process.
        name: what the values are, e.g. `configuration`.
        fields: plain JSON, possibly nested, as from `Config.to_dict`.

    Raises:
        InputError: on every rank; names the fields that differ, their values and the ranks.
        RendezvousError: a rank is missing after `hosts.timeout_seconds`; the sentence names it.
    """
    if hosts is None or hosts.n_processes == 1:
        return
    meet(hosts, f"agree on the {name}", dict(fields), lambda arrivals: _compare(name, arrivals))


def leave(code: int | None) -> NoReturn:
    """End this process with an exit code; after a failure without waiting for the other ranks.

    JAX waits at exit until every rank has come to its end, for five minutes. A rank that failed
    would keep the launcher from seeing it, and the others from being ended.
    """
    if code not in (None, 0, 75) and "jax" in sys.modules:
        import jax

        if jax.distributed.is_initialized():
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    sys.exit(code)


def _check_addresses(arrivals: Mapping[int, Arrival]) -> None:
    """Refuse hosts between which gloo will not get through."""
    ranks: dict[str, list[int]] = {}
    several = len({(x.message["host"], x.address) for x in arrivals.values()}) > 1
    for rank, arrival in arrivals.items():
        name, address = arrival.message["host"], arrival.message["address"]
        if address is None or (several and is_loopback(address)):
            ranks.setdefault(f"{name} is {address or 'unknown'}", []).append(rank)
    # gloo gives the others whatever the host's own name stands for, and has no option for that.
    if ranks:
        found = _values(ranks)
        raise InputError(
            "Hosts must know themselves by an address that the others can reach, since gloo hands "
            f"it out, but {found}; put the right address of each host into its /etc/hosts."
        )


def own_address() -> str | None:
    """Return the address that gloo will take for its own: the first of this host's name's."""
    with contextlib.suppress(OSError):
        for family, kind, *_, address in socket.getaddrinfo(
            socket.gethostname(), None, type=socket.SOCK_STREAM
        ):
            with contextlib.suppress(OSError), socket.socket(family, kind) as trial:
                trial.bind(address)
                return str(address[0])
    return None


def _compare(name: str, arrivals: Mapping[int, Arrival]) -> None:
    """Raise the sentence that names the fields in which the ranks differ."""
    flat = {rank: flat_fields(arrival.message) for rank, arrival in sorted(arrivals.items())}
    differing: list[str] = []
    for field in sorted({field for fields in flat.values() for field in fields}):
        ranks: dict[str, list[int]] = {}
        for rank, fields in flat.items():
            text = json.dumps(fields[field], ensure_ascii=False) if field in fields else "missing"
            ranks.setdefault(text, []).append(rank)
        if len(ranks) > 1:
            differing.append(f"{field} is {_values(ranks)}")
    if differing:
        more = f"; and {len(differing) - _SHOWN} more" if len(differing) > _SHOWN else ""
        raise InputError(
            f"The ranks do not have the same {name}: {'; '.join(differing[:_SHOWN])}{more}; "
            "start all of them with the same."
        )


def _values(ranks: Mapping[str, list[int]]) -> str:
    """Say which ranks have which value: `1 on rank 0 and 2 on ranks 1 and 3`."""
    said = [f"{value[:80]} on {name_ranks(at)}" for value, at in list(ranks.items())[:_SHOWN]]
    if hidden := len(ranks) - len(said):
        said.append(f"{hidden} other value{'' if hidden == 1 else 's'}")
    return " and ".join(filter(None, (", ".join(said[:-1]), said[-1])))


@contextlib.contextmanager
def _without_proxies() -> Iterator[None]:
    """Hide HTTP proxies: gRPC would ask them for the coordinator, and wait for ever."""
    proxies = {name: os.environ.pop(name) for name in list(os.environ) if _is_proxy(name)}
    try:
        yield
    finally:
        os.environ.update(proxies)


def _is_proxy(name: str) -> bool:
    return name.lower().endswith("_proxy")
