"""The ways to write a number of devices as a product, one factor for each kind of parallelism."""

import functools
import math
from collections.abc import Iterator, Mapping
from fractions import Fraction

KINDS = ("tensor", "context", "data", "pipeline")
"""Kinds of parallelism from the innermost, which communicates most, to the outermost."""


def factorings(number: int, totals: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Yield the ways to write a number as a product of factors that each divide their total."""
    if not totals:
        if number == 1:
            yield ()
        return
    for factor in _divisors(math.gcd(number, totals[0])):
        for rest in factorings(number // factor, totals[1:]):
            yield factor, *rest


def nearest(known: Mapping[str, int], devices: int) -> dict[str, int]:
    """Return the degrees that multiply to the devices and are nearest to given ones."""
    candidates = factorings(devices, (devices,) * len(KINDS))
    best = min(candidates, key=lambda factors: _distance(known, factors))
    return dict(zip(KINDS, best, strict=True))


def _distance(known: Mapping[str, int], factors: tuple[int, ...]) -> tuple[Fraction, ...]:
    """How far degrees are from the known ones; among equals, few change and rather the outer."""
    found = dict(zip(KINDS, factors, strict=True))
    ratios = [
        max(Fraction(found[kind], known[kind]), Fraction(known[kind], found[kind]))
        for kind in ("tensor", "context", "pipeline", "data")
        if kind in known
    ]
    return (math.prod(ratios, start=Fraction(1)), Fraction(sum(r > 1 for r in ratios)), *ratios)


@functools.cache
def _divisors(number: int) -> list[int]:
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]
