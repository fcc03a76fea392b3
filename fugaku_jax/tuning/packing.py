"""Packs dialogues into rows, so that none is cut and little of a row is empty."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Item = TypeVar("Item")

OPEN_ROWS = 256
"""Rows that wait for something that still fits."""


@dataclass
class _Row(Generic[Item]):
    left: int
    items: list[Item] = field(default_factory=list)


class Packer(Generic[Item]):
    """First fit over the rows that are open: a dialogue goes into the oldest with room for it.

    Source: Johnson, "Near-optimal bin packing algorithms", 1973. The same dialogues in the same
    order give the same rows.
    """

    def __init__(self, size: int) -> None:
        """Args: the tokens of a row."""
        self._size = size
        self._open: list[_Row[Item]] = []

    def add(self, item: Item, length: int) -> Iterator[tuple[list[Item], int]]:
        """Put a dialogue into a row, and yield a row that is closed by that, if one is.

        Args:
            item: the dialogue.
            length: its tokens, no more than a row has.

        Yields:
            the row's dialogues, and how many of its tokens are left.
        """
        row = next((each for each in self._open if each.left >= length), None)
        if row is None:
            row = _Row(self._size)
            self._open.append(row)
        row.items.append(item)
        row.left -= length
        if row.left == 0:
            yield self._close(row)
        elif len(self._open) > OPEN_ROWS:
            yield self._close(min(self._open, key=lambda each: each.left))

    def rest(self) -> Iterator[tuple[list[Item], int]]:
        """Yield the rows that are still open, the oldest first, as `add` does."""
        while self._open:
            yield self._close(self._open[0])

    def _close(self, row: _Row[Item]) -> tuple[list[Item], int]:
        self._open.remove(row)
        return row.items, row.left
