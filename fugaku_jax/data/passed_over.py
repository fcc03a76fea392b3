"""Batches that a run leaves out, since steps that read them went wrong."""

from bisect import bisect_right
from collections.abc import Iterable
from itertools import accumulate


class PassedOver:
    """Which batch of an order a step reads, if some are left out: a function and its inverse.

    Steps and batches are counted from 0. Without any, step `s` reads batch `s`; and what is left
    out changes nothing for the steps before it.

    Args:
        ranges: batches that no step reads, by their numbers; they may overlap.
    """

    def __init__(self, ranges: Iterable[range] = ()) -> None:
        self.ranges: list[range] = []
        for each in sorted(filter(len, ranges), key=lambda each: each.start):
            if self.ranges and each.start <= (last := self.ranges[-1]).stop:
                self.ranges[-1] = range(last.start, max(last.stop, each.stop))
            else:
                self.ranges.append(each)
        self._before = [0, *accumulate(map(len, self.ranges))]  # batches left out before each
        self._starts = [each.start for each in self.ranges]
        # Steps at which each range has been left out.
        self._steps = [
            start - before for start, before in zip(self._starts, self._before, strict=False)
        ]

    def __str__(self) -> str:
        """The first and the last of each range."""
        return ", ".join(f"{each.start}-{each.stop - 1}" for each in self.ranges) or "none"

    def batch(self, step: int) -> int:
        """Return the batch that a step reads."""
        return step + self._before[bisect_right(self._steps, step)]

    def step(self, batch: int) -> int | None:
        """Return the step that reads a batch; None if none does."""
        number = bisect_right(self._starts, batch)
        if number and batch in self.ranges[number - 1]:
            return None
        return batch - self._before[number]
