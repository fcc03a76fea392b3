"""Texts that begin alike as trees, packed into rows: what they share is computed once for all.

A row holds the tokens of its trees in the order of a walk that goes down before it goes on. What
goes on from a token therefore stands right behind it, and a token sees those before it whose
descendants have not ended.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

AT_A_PLACE = 8
"""Most tokens that one entry of a row asks for; where more are asked for there are more entries."""


class Answer(NamedTuple):
    """Where a row's answer to a token asked for stands."""

    entry: int
    number: int


class TreeRow:
    """The trees of a row, and what is asked of them."""

    def __init__(self, length: int) -> None:
        """Args: most tokens of the row."""
        self.tokens: list[int] = []
        self.positions: list[int] = []
        """Of each token in its own text."""
        self.ends: list[int] = []
        """The place behind each token's last descendant."""
        self.places: list[int] = []
        """Of each entry: after which token something is asked for."""
        self.targets: list[list[int]] = []
        """Of each entry: the tokens asked for."""
        self.owners: list[int] = []
        """The requests whose answers are here."""
        self.answers: list[list[Answer]] = []
        """Of each of these: where they stand, token by token."""
        self._length = length
        self._text: Sequence[int] = ()
        self._path: list[int] = []  # places of the newest text's tokens
        self._newest: dict[int, int] = {}  # the newest entry of each place
        self._found: dict[tuple[int, int], Answer] = {}

    def add(self, owner: int, text: Sequence[int], targets: Sequence[int]) -> bool:
        """Take a text and what is asked for after its last tokens; False if there is no room.

        Texts come sorted. The tree has room for as many tokens, and twice as many entries.

        Args:
            owner: number of the request.
            text: its tokens, at least as many as targets.
            targets: the last of them is asked for after the last token.
        """
        shared = _alike(self._text, text)
        full = len(self.tokens) + len(text) - shared > self._length
        if full or len(self.places) + len(targets) > 2 * self._length:
            return False
        self._end(shared)
        for position in range(shared, len(text)):
            self._path.append(len(self.tokens))
            self.tokens.append(text[position])
            self.positions.append(position)
            self.ends.append(self._length)
        self._text = text
        last = self._path[len(text) - len(targets) :]
        self.owners.append(owner)
        self.answers.append([self._ask(*each) for each in zip(last, targets, strict=True)])
        return True

    def _end(self, shared: int) -> None:
        """Let all of the newest text end but its first tokens."""
        for place in self._path[shared:]:
            self.ends[place] = len(self.tokens)
        del self._path[shared:]

    def _ask(self, place: int, target: int) -> Answer:
        if (place, target) not in self._found:
            entry = self._newest.get(place)
            if entry is None or len(self.targets[entry]) == AT_A_PLACE:
                entry = self._newest[place] = len(self.places)
                self.places.append(place)
                self.targets.append([])
            self._found[place, target] = Answer(entry, len(self.targets[entry]))
            self.targets[entry].append(target)
        return self._found[place, target]


def pack_trees(texts: Sequence[tuple[int, list[int], list[int]]], length: int) -> Iterator[TreeRow]:
    """Yield rows that hold texts, each with its owner and targets as for `TreeRow.add`.

    Args:
        length: of a row; no text is longer.
    """
    row = TreeRow(length)
    for each in sorted(texts, key=lambda each: each[1]):
        if not row.add(*each):
            yield row
            row = TreeRow(length)
            row.add(*each)
    if row.owners:
        yield row


def _alike(one: Sequence[int], other: Sequence[int]) -> int:
    """Return with how many equal tokens both begin."""
    both = enumerate(zip(one, other, strict=False))
    return next((place for place, (a, b) in both if a != b), min(len(one), len(other)))
