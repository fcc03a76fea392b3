"""How long a collective takes on a machine's network: modelled, never measured.

A round of messages of s bytes takes

    latency + hop · (links of the longest way − 1) + s · max over links of (messages / capacity)

where `links` counts the messages of all groups that send at the same time. Rounds of one strand
follow each other. A node adds what arrives at `reduction_bytes_per_second`: a strand alone does so
after each round. A buffer that goes several ways is cut into chunks that follow one another through
their rounds, so that links, and adding, work at the same time. It takes

    the longest that any link, or adding, is busy with all of it
    + what the busiest link waits for the first chunk, and has ended before the last one has

and no less than any of its ways alone. That the busiest link never waits in between takes some four
chunks a way. Devices of a node (`k`) share its links; a group along k too sums first in the node's
memory, each device its part.
"""

import functools
import itertools
from dataclasses import dataclass

from fugaku_jax.tofu.links import LOCAL, NetworkMesh, capacity, torus_of, traffic
from fugaku_jax.tofu.machine import Machine, Network
from fugaku_jax.tofu.rounds import Algorithm, Kind, Leg, Strand, plan_rounds
from fugaku_jax.tofu.topology import AXES

CHUNKS = 128
"""Into how many chunks a buffer is cut that goes several ways."""


@dataclass(frozen=True)
class CollectiveTime:
    """What a collective takes, modelled."""

    seconds: float
    """All of it: the sum of the next four."""
    transfer_seconds: float
    """In which the busiest link works, round by round."""
    latency_seconds: float
    """In which messages are on their way, or the busiest link waits for the first chunk."""
    adding_seconds: float
    """In which only additions are done."""
    local_seconds: float
    """In the memory of a node, between its devices."""
    busiest: str
    """The kind of link that carries most for its capacity, as in `links.Traffic`; empty if nothing
    is sent."""
    busiest_bytes: float
    """What one such link carries."""
    bound_seconds: float
    """No algorithm that stays on the links along these axes is faster."""


def collective_seconds(
    machine: Machine | Network,
    parts: tuple[tuple[str, int], ...],
    axes: tuple[str, ...],
    kind: Kind,
    nbytes: float,
    algorithm: Algorithm = "ring",
    chunks: int = CHUNKS,
) -> CollectiveTime:
    """Model a collective in all groups along some mesh axes at once.

    Args:
        machine: whose network it is, or the network.
        parts: name and size of the mesh axes, the outermost first, `(("x0", 3), ("x1", 8), …)`; the
            devices of a node are the last, `("k", 4)`.
        axes: along which each group lies.
        kind: what is done.
        nbytes: the whole buffer of a device: before a reduce-scatter, after an all-gather; of
            `send`, the message.
        algorithm: its name, or its walks, `collectives.routes.plan_routes(sizes)`, where `sizes`
            are those of `axes` without k.
        chunks: into how many pieces a buffer of several walks is cut.

    Raises:
        InputError: the mesh does not fit the machine, or has no such axis.
    """
    walks = algorithm if isinstance(algorithm, str) else tuple(algorithm)
    network = machine.network if isinstance(machine, Machine) else machine
    mesh = NetworkMesh(network, parts)
    between = tuple(name for name in axes if name[0] != LOCAL)
    own = mesh.size(axes) // mesh.size(between)  # devices of a node that share the sum
    cost = _cost(mesh, between, kind, walks, chunks)
    size = nbytes / own
    local = _passes(kind) * nbytes * (own - 1) / own / network.reduction_bytes_per_second
    transfer, adding = cost.transfer * size, cost.adding * size
    latency = cost.latency + cost.first_chunk * size
    return CollectiveTime(
        seconds=transfer + latency + adding + local,
        transfer_seconds=transfer,
        latency_seconds=latency,
        adding_seconds=adding,
        local_seconds=local,
        busiest=cost.busiest,
        busiest_bytes=cost.busiest_share * size,
        bound_seconds=cost.bound * size,
    )


@dataclass(frozen=True)
class _Cost:
    """A collective of one byte."""

    transfer: float
    latency: float  # whatever the size
    first_chunk: float
    adding: float
    busiest: str
    busiest_share: float
    bound: float


@functools.lru_cache(maxsize=65536)
def _cost(
    mesh: NetworkMesh, axes: tuple[str, ...], kind: Kind, algorithm: Algorithm, chunks: int
) -> _Cost:
    strands = plan_rounds(mesh, axes, kind, algorithm)
    network = mesh.network
    carried: dict[str, float] = {}
    for strand in strands:
        _carry(mesh, strand, carried)
    busy = {link: share / capacity(network, link) for link, share in carried.items()}
    busiest = max(busy, key=busy.__getitem__, default="")
    alone = [[_leg(mesh, leg, busiest) for leg in strand] for strand in strands]
    added = sum(leg.rounds * leg.share for strand in strands for leg in strand if leg.adds)
    adding = added * mesh.local / network.reduction_bytes_per_second
    latency = max((sum(leg.latency for leg in legs) for legs in alone), default=0.0)
    if isinstance(algorithm, str) or not strands:
        transfer, first = sum(leg.transfer for legs in alone for leg in legs), 0.0
    else:
        pieces = [max(1.0, chunks * float(walk.share)) for walk in algorithm]
        walks = list(zip(alone, pieces, strict=True))
        longest = max(_in_pieces(legs, count) for legs, count in walks)
        transfer, adding = max(*busy.values(), adding, longest), 0.0
        first = min(_before_busiest(legs) / count for legs, count in walks)
        first += min(_before_busiest(legs[::-1]) / count for legs, count in walks)
    bound = _bound(mesh, axes, kind)
    share = carried[busiest] if busiest else 0.0
    return _Cost(transfer, latency, first, adding, busiest, share, bound)


def _carry(mesh: NetworkMesh, strand: Strand, carried: dict[str, float]) -> None:
    """Add what share of a buffer the busiest link of each kind carries."""
    for leg in strand:
        for link, messages in traffic(mesh, leg.axes, leg.pattern).loads:
            carried[link] = carried.get(link, 0.0) + leg.rounds * leg.share * messages


@dataclass(frozen=True)
class _LegCost:
    """A leg that has the network for itself, of a buffer of one byte."""

    latency: float
    transfer: float
    busiest: bool  # whether it loads the link that is the busiest of all


def _leg(mesh: NetworkMesh, leg: Leg, busiest: str) -> _LegCost:
    network, found = mesh.network, traffic(mesh, leg.axes, leg.pattern)
    busy = {link: messages / capacity(network, link) for link, messages in found.loads}
    slowest = max(1 / network.link_bytes_per_second, *busy.values())  # one interface a message
    latency = leg.rounds * (network.latency_seconds + network.hop_seconds * found.hops)
    return _LegCost(latency, leg.rounds * leg.share * slowest, busiest in busy)


def _in_pieces(legs: list[_LegCost], pieces: float) -> float:
    """Seconds of a walk alone whose pieces follow one another: its longest leg is always busy."""
    longest = max(leg.transfer for leg in legs)
    return longest + (sum(leg.transfer for leg in legs) - longest) / pieces


def _before_busiest(legs: list[_LegCost]) -> float:
    """Seconds of the legs until one loads the busiest link."""
    return sum(leg.transfer for leg in itertools.takewhile(lambda leg: not leg.busiest, legs))


def _bound(mesh: NetworkMesh, axes: tuple[str, ...], kind: Kind) -> float:
    """Seconds a byte that no algorithm beats: all but its own part must leave each device."""
    network = mesh.network
    if (size := mesh.size(axes)) == 1:
        return 0.0
    sent = (_passes(kind) * (size - 1) / size if kind != "send" else 1.0) * mesh.local
    if network.topology == "bus":
        nodes = mesh.size(tuple(n for n, _ in mesh.parts if n[0] != LOCAL))
        return sent * nodes / network.link_bytes_per_second
    rate = capacity(network, "out")
    if network.topology == "torus":
        rate = min(rate, _links(mesh, axes) * network.link_bytes_per_second)
    return sent / rate


def _links(mesh: NetworkMesh, axes: tuple[str, ...]) -> float:
    """Links that lead out of a node along the axes of a group, on average over the nodes."""
    touched = {name[0] for name in axes}
    parts = tuple(part for part in mesh.parts if part[0][0] in touched)
    torus = torus_of(mesh.network, parts)
    return 2 * sum(len(torus.links(axis)) for axis in range(len(AXES))) / torus.nodes


def _passes(kind: Kind) -> int:
    return 2 if kind == "all-reduce" else 1
