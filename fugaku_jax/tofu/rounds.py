"""Collectives as rounds of messages: who sends to whom, how often, and which share of the buffer.

A leg is a number of rounds of one pattern; a strand is legs one after the other; an algorithm is
strands that run side by side, each with its part of the buffer. Of an all-gather the legs are those
of a reduce-scatter in reverse order, without additions; an all-reduce is both.

- `ring`: one ring through all devices of a group, in the order of ranks, as gloo sums.
- `snake`: the same ring laid along neighbours.
- `bucket`: a ring along one axis after the other, each with what is left to the device by then.
- `halving`: exchanges at distances 1, 2, 4, … of halves, quarters, … (Rabenseifner's; Thakur et
  al., "Optimization of collective communication operations in MPICH", 2005). Where the size of a
  group is no power of two, the surplus first gives all it has to neighbours, and gets the result
  from them.
- walks: several parts of the buffer, each of which takes the axes in another order or direction, as
  `bucket` takes them in one (Sack and Gropp, "Collective algorithms for multiported torus
  networks", 2015). Who plans them hands them over.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal, Protocol, TypeAlias

from fugaku_jax.tofu.links import NetworkMesh, Pattern

Kind = Literal["all-reduce", "reduce-scatter", "all-gather", "all-to-all", "send"]
"""What is done: `send` is each device's message to the next along the axes."""

Named = Literal["ring", "snake", "bucket", "halving"]


class Walk(Protocol):
    """How a part of a buffer goes round the axes of a group, as `collectives.routes` plans it."""

    @property
    def share(self) -> Fraction | float:
        """Of the buffer."""

    @property
    def axes(self) -> tuple[int, ...]:
        """Indices of the group's axes, in the order in which they are walked."""

    @property
    def backward(self) -> bool:
        """Whether it goes round them from the last device to the first."""


Algorithm: TypeAlias = Named | Sequence[Walk]


@dataclass(frozen=True)
class Leg:
    """Rounds of one pattern."""

    axes: tuple[str, ...]
    """Mesh axes of the groups in which it sends."""
    pattern: Pattern
    """Who sends to whom."""
    rounds: int
    """How often."""
    share: float
    """Of the buffer, that a device sends a round."""
    adds: bool
    """Whether what arrives is added to what is there."""


Strand: TypeAlias = tuple[Leg, ...]


def plan_rounds(
    mesh: NetworkMesh, axes: tuple[str, ...], kind: Kind, algorithm: Algorithm
) -> tuple[Strand, ...]:
    """Write a collective over some axes as strands.

    Args:
        mesh: on its network.
        axes: of each group, the outermost first; none of them is k.
        kind: what is done. `all-to-all` and `send` know one algorithm and look at none.
        algorithm: its name, or the walks of one that goes several ways.
    """
    long = tuple(name for name in axes if mesh.size((name,)) > 1)
    size = mesh.size(long)
    if size == 1:
        return ()
    if kind == "send":
        return ((Leg(long, Pattern("shift"), 1, 1.0, adds=False),),)
    if kind == "all-to-all":
        shifts = (Pattern("shift", distance) for distance in range(1, size))
        return (tuple(Leg(long, pattern, 1, 1 / size, adds=False) for pattern in shifts),)
    if not isinstance(algorithm, str):
        scatters = [_walk(mesh, axes, walk) for walk in algorithm]
    elif algorithm == "bucket":
        scatters = [_bucket(mesh, [(name, 1) for name in long], 1.0)]
    elif algorithm == "halving":
        return (_halving(long, size, kind),)
    else:
        pattern = Pattern("shift", order="snake" if algorithm == "snake" else "rows")
        scatters = [(Leg(long, pattern, size - 1, 1 / size, adds=True),)]
    return tuple(_of_kind(scatter, kind) for scatter in scatters)


def _walk(mesh: NetworkMesh, axes: tuple[str, ...], walk: Walk) -> Strand:
    steps = [(axes[index], -1 if walk.backward else 1) for index in walk.axes]
    return _bucket(mesh, steps, float(walk.share))


def _bucket(mesh: NetworkMesh, steps: list[tuple[str, int]], share: float) -> Strand:
    """The reduce-scatter of a share, axis by axis, each round in a direction."""
    legs = []
    for name, direction in steps:
        size = mesh.size((name,))
        share /= size
        legs.append(Leg((name,), Pattern("shift", direction), size - 1, share, adds=True))
    return tuple(leg for leg in legs if leg.rounds)


def _halving(axes: tuple[str, ...], size: int, kind: Kind) -> Strand:
    bits = size.bit_length() - 1
    fold, unfold = (
        Leg(axes, Pattern(way), 1, 1.0, adds=way == "fold") for way in ("fold", "unfold")
    )
    halves = tuple(
        Leg(axes, Pattern("exchange", 1 << bit), 1, 0.5 ** (bit + 1), adds=True)
        for bit in range(bits)
    )
    surplus = size > 1 << bits
    before = (fold,) if surplus and kind != "all-gather" else ()
    after = (unfold,) if surplus and kind != "reduce-scatter" else ()
    return before + _of_kind(halves, kind) + after


def _of_kind(scatter: Strand, kind: Kind) -> Strand:
    gather = tuple(replace(leg, adds=False) for leg in scatter[::-1])
    return {"reduce-scatter": scatter, "all-gather": gather}.get(kind, scatter + gather)
