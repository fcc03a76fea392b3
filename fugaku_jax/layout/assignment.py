"""Which axes of the 6D torus carry which kind of parallelism, found by search.

Every mesh axis is given to one kind or split among several: `x=24` into `x0=3`, the outer part,
and `x1=8`, the inner one, whose neighbours are neighbours in the machine. Of all ways that give
each kind its degree the best is taken, by these costs, an earlier one deciding before a later:

1. hops once round every part of a tensor group along x, y and z, which leave the unit of 12
   nodes (a reduction goes round part by part);
2. parts in which axes are split beyond one each;
3. hops once round every part of a tensor group; the fewest make its diameter the least too;
4. hops once round a context group, whose ring attention passes keys on from each to the next;
5. axes of which data parallelism has a part only, so that its reduction finds no whole ring;
6. hops from the first pipeline stage through all the others to the last: one each is best.

What still is equal is settled axis by axis from c to x: a larger share for tensor, then context,
then data. So tensor parallelism lies innermost and pipeline stages outermost, in rank order too.
The ranks of a kind that has several parts count them as digits, the outermost first. All axes are
taken to close into rings, which Tofu-D's do for a job allocated as `torus` (those of length 2 are
one link either way).
"""

import functools
import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple, TypeAlias

from fugaku_jax.errors import InputError
from fugaku_jax.tofu.topology import AXES, UNIT_SHAPE

KINDS = ("tensor", "context", "data", "pipeline")
"""Kinds of parallelism from the innermost, which communicates most, to the outermost."""
_OUTSIDE_UNIT = len(AXES) - len(UNIT_SHAPE)  # axes, the first ones
_COSTS = 6
# By what each kind has got of some axes: the best way to that, as its cost and the place of each
# axis's use in its list. Both compare as tuples do.
_Best: TypeAlias = dict[tuple[int, ...], tuple[tuple[int, ...], tuple[int, ...]]]


@dataclass(frozen=True)
class Part:
    """A mesh axis, or one part of a split one."""

    name: str
    """`x`, or when split `x0` (the outermost part), `x1`, ..."""
    size: int
    """Devices along it."""
    kind: str
    """What it carries: one of `KINDS`."""


@dataclass(frozen=True)
class Assignment:
    """What every mesh axis carries."""

    parts: tuple[Part, ...]
    """In the order of the axes, x to c; those of a split axis from outer to inner. An axis of
    length 1 is one part, of the kind data."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the parts, which are the axes of the mesh."""
        return tuple(part.name for part in self.parts)

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the parts: in row-major order a device keeps its place whatever is split."""
        return tuple(part.size for part in self.parts)

    def axes(self, kind: str) -> tuple[str, ...]:
        """Names of the parts that carry a kind, from outer to inner."""
        return tuple(part.name for part in self.parts if part.kind == kind)


def degrees(
    devices: int, data: int = -1, tensor: int = 1, pipeline: int = 1, context: int = 1
) -> dict[str, int]:
    """How many ways each kind divides the devices, with -1 filled in.

    Args:
        devices: devices of the mesh.
        data: replicas; any one of the four may be -1, which takes what the others leave.
        tensor: shards of a layer.
        pipeline: stages.
        context: shards of the sequence.

    Returns:
        Kind -> degree, in the order of `KINDS`; their product is `devices`.

    Raises:
        InputError: a degree is neither -1 nor at least 1, two are -1, or the product is not
            (or, where one is -1, does not divide) the number of devices.
    """
    given = {"tensor": tensor, "context": context, "data": data, "pipeline": pipeline}
    known = {kind: degree for kind, degree in given.items() if degree != -1}
    filled = [f"mesh.{kind}" for kind in KINDS if kind not in known]
    if len(filled) > 1:
        raise InputError(
            f"{' and '.join(filled)} are -1, but only one can take what the others leave of the "
            f"devices; give the rest numbers."
        )
    _check_product(known, devices, "the number of devices")
    rest = devices // math.prod(known.values())
    return {kind: known.get(kind, rest) for kind in KINDS}


def assign(shape: tuple[int, ...], degrees: Mapping[str, int]) -> Assignment:
    """Find the best assignment of the axes to the kinds (see the module for what is best).

    Args:
        shape: devices along x y z a b c; any may be 1.
        degrees: kind -> degree, at least 1; a kind left out has degree 1.

    Raises:
        InputError: a size is not positive, or the product of the degrees is not the number of
            devices. Otherwise there always is an assignment.
    """
    if len(shape) != len(AXES) or min(shape) < 1:
        raise InputError(
            f"The mesh shape is {_times(shape)}, but it must be six sizes of at least 1, those of "
            f"{' '.join(AXES)}."
        )
    given = {kind: degrees.get(kind, 1) for kind in KINDS}
    _check_product(given, math.prod(shape), f"the devices of the mesh {_times(shape)}")
    chosen = _search(shape, tuple(given.values()))
    return Assignment(
        tuple(
            Part(f"{name}{index if len(use.parts) > 1 else ''}", size, kind)
            for name, use in zip(AXES, chosen, strict=True)
            for index, (kind, size) in enumerate(use.parts)
        )
    )


def logical_shape(devices: int, degrees: Mapping[str, int]) -> tuple[int, ...]:
    """A mesh shape for a machine that is no torus, made so that `assign` need not split an axis.

    Tensor parallelism gets a, b and c, whose devices follow each other in rank order and so share
    hosts: a factor 3 on b and, if 4 divides the rest, a factor 2 on c, as in a unit of Tofu-D (6
    is 2x3x1, 12 is 2x3x2). Pipeline, data and context lie in this order on x, y and z, from the
    first on and leaving out a degree of 1: with data alone x has all replicas.

    Args:
        devices: devices of the mesh.
        degrees: kind -> degree, at least 1; a kind left out has degree 1.

    Returns:
        Devices along x y z a b c.

    Raises:
        InputError: the product of the degrees is not the number of devices.
    """
    given = {kind: degrees.get(kind, 1) for kind in KINDS}
    _check_product(given, devices, "the number of devices")
    rest = given["tensor"]
    b = 3 if rest % 3 == 0 else 1
    rest //= b
    c = 2 if rest % 4 == 0 else 1
    outer = [given[kind] for kind in ("pipeline", "data", "context") if given[kind] > 1]
    x, y, z = (*outer, 1, 1, 1)[:3]
    return x, y, z, rest // c, b, c


class _Use(NamedTuple):
    """One way to use an axis."""

    parts: tuple[tuple[str, int], ...]  # (kind, size), outer to inner
    factors: tuple[int, ...]  # what each of KINDS gets
    strides: tuple[int, ...]  # and how far along the axis its next one is


def _search(shape: tuple[int, ...], totals: tuple[int, ...]) -> list[_Use]:
    """The best use of each axis, by dynamic programming from c to x."""
    uses = [_uses(size, totals) for size in shape]
    best: _Best = {(1,) * len(KINDS): ((0,) * _COSTS, ())}
    for axis in reversed(range(len(AXES))):
        longer: _Best = {}
        for inner, (cost, places) in best.items():
            for place, use in enumerate(uses[axis]):
                reached = tuple(a * b for a, b in zip(inner, use.factors, strict=True))
                if any(total % got for total, got in zip(totals, reached, strict=True)):
                    continue
                added = _cost(use, shape[axis], axis < _OUTSIDE_UNIT, inner, totals)
                total_cost = tuple(a + b for a, b in zip(cost, added, strict=True))
                candidate = (total_cost, (*places, place))
                if reached not in longer or candidate < longer[reached]:
                    longer[reached] = candidate
        best = longer
    return [uses[axis][place] for axis, place in enumerate(reversed(best[totals][1]))]


def _uses(size: int, totals: tuple[int, ...]) -> list[_Use]:
    """All ways to use an axis, the one to prefer among equals first."""
    if size == 1:
        return [_Use((("data", 1),), (1,) * len(KINDS), (1,) * len(KINDS))]
    uses = []
    for factors in sorted(_factorings(size, totals), reverse=True):
        used = [index for index in reversed(range(len(KINDS))) if factors[index] > 1]
        for order in itertools.permutations(used):
            strides, stride = [1] * len(KINDS), 1
            for index in reversed(order):
                strides[index] = stride
                stride *= factors[index]
            parts = tuple((KINDS[index], factors[index]) for index in order)
            uses.append(_Use(parts, factors, tuple(strides)))
    return uses


def _factorings(number: int, totals: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """The ways to write a number as a product of factors that each divide their total."""
    if not totals:
        if number == 1:
            yield ()
        return
    for factor in _divisors(math.gcd(number, totals[0])):
        for rest in _factorings(number // factor, totals[1:]):
            yield factor, *rest


@functools.cache
def _divisors(number: int) -> list[int]:
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]


def _cost(
    use: _Use, ring: int, outside_unit: bool, inner: tuple[int, ...], totals: tuple[int, ...]
) -> tuple[int, ...]:
    """What an axis adds to the six costs, given each kind's degree over the axes inside it."""
    tensor, context, data, pipeline = zip(use.factors, use.strides, inner, totals, strict=True)
    around = _walk(ring, tensor[0], tensor[1], 1, tensor[0], closed=True)
    return (
        around if outside_unit else 0,
        len(use.parts) - 1,
        around,
        _walk(ring, *context, closed=True),
        int(1 < data[0] < ring),
        _walk(ring, *pipeline, closed=False),
    )


def _walk(ring: int, size: int, stride: int, inner: int, total: int, *, closed: bool) -> int:
    """Hops along one part when all ranks of its kind are visited in order: it is one digit.

    A digit steps each time the digits inside it are through, and falls back to 0 when it is
    through itself.
    """
    rounds = total // (inner * size)
    steps = total // inner - rounds
    falls = rounds if closed else rounds - 1
    return steps * _hops(ring, stride) + falls * _hops(ring, (size - 1) * stride)


def _hops(ring: int, distance: int) -> int:
    return min(distance % ring, -distance % ring)


def _check_product(known: Mapping[str, int], devices: int, whose: str) -> None:
    """That the degrees multiply to the devices; with one left out, that they divide them."""
    for kind, degree in known.items():
        if degree < 1:
            raise InputError(
                f"mesh.{kind} is {degree}, but it must be at least 1; a single one of the degrees "
                f"may be given as -1 and takes what the others leave of the devices."
            )
    product, complete = math.prod(known.values()), len(known) == len(KINDS)
    if product == devices or (not complete and devices % product == 0):
        return
    fault = f"but it must be {devices}" if complete else f"which does not divide {devices}"
    candidates = _factorings(devices, (devices,) * len(KINDS))
    best = min(candidates, key=lambda factors: _distance(known, factors))
    raise InputError(
        f"{' x '.join(f'mesh.{kind} {degree}' for kind, degree in known.items())} is {product}, "
        f"{fault}, {whose}; nearest that would do: "
        f"{', '.join(f'mesh.{kind} {degree}' for kind, degree in zip(KINDS, best, strict=True))}."
    )


def _distance(known: Mapping[str, int], factors: tuple[int, ...]) -> tuple[Fraction, ...]:
    """How far degrees are from the known ones; among equals, few change and rather the outer."""
    found = dict(zip(KINDS, factors, strict=True))
    ratios = [
        max(Fraction(found[kind], known[kind]), Fraction(known[kind], found[kind]))
        for kind in ("tensor", "context", "pipeline", "data")
        if kind in known
    ]
    return (math.prod(ratios, start=Fraction(1)), Fraction(sum(r > 1 for r in ratios)), *ratios)


def _times(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
