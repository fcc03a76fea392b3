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

import itertools
import math
from collections.abc import Mapping
from typing import NamedTuple, TypeAlias

from fugaku_jax.errors import InputError
from fugaku_jax.layout.assignment import Assignment, Part, check_product
from fugaku_jax.layout.factors import KINDS, factorings
from fugaku_jax.tofu.topology import AXES, UNIT_SHAPE

_OUTSIDE_UNIT = len(AXES) - len(UNIT_SHAPE)  # axes, the first ones
_COSTS = 6
# By what each kind has got of some axes: the best way to that, as its cost and the place of each
# axis's use in its list. Both compare as tuples do.
_Best: TypeAlias = dict[tuple[int, ...], tuple[tuple[int, ...], tuple[int, ...]]]


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
    check_product(given, math.prod(shape), f"the devices of the mesh {_times(shape)}")
    chosen = _search(shape, tuple(given.values()))
    return Assignment(
        tuple(
            Part(f"{name}{index if len(use.parts) > 1 else ''}", size, kind)
            for name, use in zip(AXES, chosen, strict=True)
            for index, (kind, size) in enumerate(use.parts)
        )
    )


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
    for factors in sorted(factorings(size, totals), reverse=True):
        used = [index for index in reversed(range(len(KINDS))) if factors[index] > 1]
        for order in itertools.permutations(used):
            strides, stride = [1] * len(KINDS), 1
            for index in reversed(order):
                strides[index] = stride
                stride *= factors[index]
            parts = tuple((KINDS[index], factors[index]) for index in order)
            uses.append(_Use(parts, factors, tuple(strides)))
    return uses


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


def _times(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
