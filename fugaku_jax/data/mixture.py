"""Which set the g-th sample comes from: a periodic schedule that follows the weights exactly.

R. Tijdeman, "The chairman assignment problem in its general form is solved", Discrete Mathematics
32 (1980): n sets with weights w_i (sum 1) can be scheduled so that after every k places each set
has been taken w_i·k times to within 1 − 1/(2n−2) < 1.
"""

import heapq
import math
import threading
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import TypeAlias

import numpy as np
from jaxtyping import Int64

from fugaku_jax.errors import InputError

LONGEST_PERIOD = 1_000_000

Weight: TypeAlias = int | float | Fraction


def integer_parts(weights: Sequence[Weight]) -> list[int]:
    """The weights as small whole numbers in the same proportion.

    Exact when the smallest such numbers sum to at most 1,000,000. Otherwise they are rounded to
    parts of a million (largest remainder; a set with a weight keeps at least one part).

    Args:
        weights: one number ≥ 0 a set. A float stands for the decimal number it prints as.

    Raises:
        InputError: a weight is negative or not finite, or all are zero.
    """
    exact = []
    for index, weight in enumerate(weights):
        if not 0 <= weight < math.inf:
            raise InputError(f"weight of set {index}: must be a number ≥ 0, got {weight}.")
        exact.append(weight if isinstance(weight, Fraction) else Fraction(str(weight)))
    total = sum(exact)
    if not total:
        raise InputError("weights: all are zero; give at least one set a weight.")
    scale = math.lcm(*(weight.denominator for weight in exact))
    parts = [int(weight * scale) for weight in exact]
    divisor = math.gcd(*parts)
    parts = [part // divisor for part in parts]
    if sum(parts) <= LONGEST_PERIOD:
        return parts
    ideal = [weight * LONGEST_PERIOD / total for weight in exact]
    parts = [max(math.floor(share), int(share > 0)) for share in ideal]
    by_remainder = sorted(range(len(parts)), key=lambda i: (parts[i] - ideal[i], i))
    for index in by_remainder[: max(LONGEST_PERIOD - sum(parts), 0)]:
        parts[index] += 1
    return parts


class Mixture:
    """The schedule of sets: place g belongs to one set, and is the k-th place of that set.

    Both ways are closed form over a period of `sum(parts)` places, of which only as much is worked
    out as has been asked for. Safe to use from several threads.
    """

    def __init__(self, weights: Sequence[Weight]) -> None:
        """Args: one weight ≥ 0 a set. Raises InputError as `integer_parts`."""
        self.parts = np.array(integer_parts(weights), np.int64)
        self.period = int(self.parts.sum())
        self._lock = threading.Lock()
        self._sets = np.empty(0, np.int64)  # by place in the period
        self._ranks = np.empty(0, np.int64)  # by place: how often the set was taken before
        self._places = [np.empty(0, np.int64) for _ in self.parts]  # by set: its places
        self._scheduler = _tijdeman(self.parts.tolist())

    def locate(
        self, places: Int64[np.ndarray, "N"]
    ) -> tuple[Int64[np.ndarray, "N"], Int64[np.ndarray, "N"]]:
        """The set of each place, and how many earlier places that set had."""
        cycle, place = np.divmod(places, self.period)
        self._extend(int(place.max(initial=-1)) + 1)
        sets = self._sets[place]
        return sets, cycle * self.parts[sets] + self._ranks[place]

    def place(self, set_index: int, count: int) -> int:
        """The place at which a set is taken for the `count`-th time, from 0: `locate` inverted.

        Raises:
            InputError: the set has no weight, so it is never taken.
        """
        part = int(self.parts[set_index])
        if not part:
            raise InputError(f"weight of set {set_index}: is zero, so the set is never read.")
        cycle, rank = divmod(count, part)
        # The (rank + 1)-th place comes before the ideal count exceeds rank + 1 by one.
        self._extend(min(self.period, (rank + 2) * self.period // part + 1))
        return cycle * self.period + int(self._places[set_index][rank])

    def _extend(self, length: int) -> None:
        with self._lock:
            known = len(self._sets)
            if length <= known:
                return
            # Doubling keeps the total work proportional to what was asked for.
            length = min(self.period, max(length, 2 * known, 4096))
            fresh = [next(self._scheduler) for _ in range(length - known)]
            sets = np.concatenate([self._sets, np.array(fresh, np.int64)])
            ranks = np.empty_like(sets)
            for index in range(len(self.parts)):
                self._places[index] = np.flatnonzero(sets == index)
                ranks[self._places[index]] = np.arange(len(self._places[index]))
            # `_ranks` first: a reader that sees the new `_sets` must find the ranks there.
            self._ranks = ranks
            self._sets = sets


def _tijdeman(parts: list[int]) -> Iterator[int]:
    """Yields the set of each place of one period.

    With d = 2n − 2, set i may take its (t+1)-th place from the first k with w_i·k − t ≥ 1/d on,
    and must have it by the last k with w_i·k − t ≤ 1 − 1/d. Among the sets that may, the one with
    the earliest deadline goes first. All in integers.
    """
    weighted = [index for index, part in enumerate(parts) if part]
    if len(weighted) == 1:
        while True:
            yield weighted[0]
    period, d = sum(parts), 2 * len(weighted) - 2
    waiting = [(-(-period // (parts[i] * d)), i) for i in weighted]
    heapq.heapify(waiting)
    ready: list[tuple[int, int]] = []
    taken = [0] * len(parts)
    for k in range(1, period + 1):
        while waiting and waiting[0][0] <= k:
            index = heapq.heappop(waiting)[1]
            deadline = ((taken[index] + 1) * d - 1) * period // (parts[index] * d)
            heapq.heappush(ready, (deadline, index))
        index = heapq.heappop(ready)[1]
        yield index
        taken[index] += 1
        release = -(-(taken[index] * d + 1) * period // (parts[index] * d))
        heapq.heappush(waiting, (release, index))
