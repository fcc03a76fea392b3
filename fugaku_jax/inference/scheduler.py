"""Which requests are answered, which wait, and what of each the next pass runs. It knows no JAX."""

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from fugaku_jax.errors import RunError
from fugaku_jax.inference.blocks import BlockPool
from fugaku_jax.inference.continuation import Continuation, Finish

Alternatives = dict[int, float]
"""The most probable tokens of a place, with the logarithms of their probabilities."""


class EngineFull(RunError):
    """As many requests wait as may, or the cache has no room; later there may be."""


@dataclass(eq=False)
class Ticket:
    """A request, from `submit` to its end."""

    continuation: Continuation
    """Its text, tokens, log-probabilities and end, as far as they are known."""
    alternatives: int = 0
    """How many of the most probable tokens are told for each place."""
    blocks: list[int] = field(default_factory=list)
    """Of the cache, in its order."""
    seen: int = 0
    """Tokens whose keys and values are there."""
    published: int = 0
    """Blocks that others may find."""

    @property
    def length(self) -> int:
        """Tokens of the prompt and of what was generated."""
        return len(self.continuation.prompt) + len(self.continuation.tokens)

    def part(self, places: range) -> list[int]:
        """Return some of them; of the prompt or of what was generated alone it is quick."""
        prompt, new = self.continuation.prompt, self.continuation.tokens
        if places.start >= len(prompt):
            return new[places.start - len(prompt) : places.stop - len(prompt)]
        return (prompt[places.start : places.stop] + new)[: len(places)]


@dataclass(frozen=True)
class News:
    """What a step found for a request."""

    ticket: Ticket
    text: str
    """What is new of the text; whole characters, before any stop string."""
    tokens: list[int]
    log_probs: list[float]
    alternatives: list[Alternatives]
    """Of each token's place, if they were asked for."""
    finish: Finish | None


@dataclass(frozen=True)
class Piece:
    """What a pass runs of a row."""

    row: Ticket
    places: range
    copied: tuple[int, int] | None = None
    """A block that is copied before anything is run, and where to: what it begins with is the
    row's."""

    @property
    def is_last(self) -> bool:
        """Whether its last token is the row's, so that what follows is wanted."""
        return self.places.stop == self.row.length


class Scheduler:
    """Rows that are answered and requests that wait; its methods may be called from any thread.

    A row gets all blocks that it may need when it begins, so none ever waits for another's end.
    """

    def __init__(self, pool: BlockPool, slots: int, queue: int, positions: int) -> None:
        """Args: blocks of the cache; most rows; most that wait; most tokens of a row."""
        self.slots, self.queue, self.positions = slots, queue, positions
        self.waiting: deque[Ticket] = deque()
        self.rows: list[Ticket] = []
        self._pool, self._lock = pool, threading.Lock()

    def submit(self, ticket: Ticket) -> None:
        """Let a request wait; its prompt has fewer tokens than a row may have.

        Raises:
            EngineFull: as many wait as may.
        """
        with self._lock:
            if len(self.waiting) >= self.queue:
                raise EngineFull(f"{self.queue} requests wait already; try again later.")
            self.waiting.append(ticket)

    def cancel(self, ticket: Ticket) -> None:
        """Forget a request, wherever it is; nothing if it has ended."""
        with self._lock:
            if ticket in self.waiting:
                self.waiting.remove(ticket)
            elif ticket in self.rows:
                self._leave(ticket)

    def limit(self, row: Ticket) -> int:
        """Return how many tokens a row may have."""
        wanted = len(row.continuation.prompt) + row.continuation.options.max_tokens
        return min(wanted, self.positions)

    def next_pass(self, most: int) -> list[Piece]:
        """Let those that waited longest begin, and return what the next pass runs; the last one has
        been run.

        That is the newest token of every row that has any, and prompts in the order of coming.

        Args:
            most: tokens of prompts.
        """
        with self._lock:
            self._pool.written()
            self._join()
            pieces = [
                Piece(row, range(row.seen, row.seen + 1))
                for row in self.rows
                if row.continuation.tokens
            ]
            for row in self.rows:
                if row.continuation.tokens or not most:
                    continue
                self._adopt(row)
                copied = self._copied(row)
                end = min(len(row.continuation.prompt), row.seen + most)
                pieces.append(Piece(row, range(row.seen, end), copied))
                most -= end - row.seen
                row.seen = end
                self._publish(row)  # now: those behind it may use it in the same pass
            return pieces

    def add(
        self,
        row: Ticket,
        tokens: Sequence[int],
        log_probs: Sequence[float],
        alternatives: Sequence[Alternatives] = (),
    ) -> News | None:
        """Let a row go on by what was chosen, of which it takes what it may; None if it was
        cancelled meanwhile.
        """
        with self._lock:
            if row not in self.rows:
                return None
            text, room = row.continuation, self.limit(row) - row.length
            shown, told = len(text.text), len(text.tokens)
            text.add(tokens[:room], log_probs[:room])
            row.seen = row.length - 1
            self._publish(row)
            if not text.finish and row.length >= self.limit(row):
                text.add([], [])
            if text.finish:
                self._leave(row)
            new = text.tokens[told:], text.log_probs[told:]
            return News(
                row, text.text[shown:], *new, list(alternatives[: len(new[0])]), text.finish
            )

    def take(self, tokens: int) -> list[int]:
        """Return blocks for so many tokens; who took them gives them back.

        Raises:
            EngineFull: there are not so many now.
        """
        with self._lock:
            blocks = self._pool.take(self._pool.needed(tokens))
        if blocks is None:
            raise EngineFull("The cache has no room now; try again later.")
        return blocks

    def give_back(self, blocks: Sequence[int]) -> None:
        """Take blocks back."""
        with self._lock:
            self._pool.release(blocks)

    def _join(self) -> None:
        while self.waiting and len(self.rows) < self.slots:
            row = self.waiting[0]
            self._adopt(row)
            blocks = self._pool.take(self._pool.needed(self.limit(row)) - len(row.blocks))
            if blocks is None:
                self._pool.release(row.blocks)
                row.blocks, row.seen, row.published = [], 0, 0
                return
            row.blocks += blocks
            self.rows.append(self.waiting.popleft())

    def _adopt(self, row: Ticket) -> None:
        """Take over what others have of a prompt's next blocks; its last token is always run."""
        prompt, size = row.continuation.prompt, self._pool.size
        while row.seen == row.published * size and row.seen + size < len(prompt):
            block = self._pool.find(self._before(row), prompt[row.seen : row.seen + size])
            if block is None:
                return
            self._pool.share(block)
            if row.published < len(row.blocks):
                self._pool.release([row.blocks[row.published]])
            row.blocks[row.published : row.published + 1] = [block]
            row.seen, row.published = row.seen + size, row.published + 1

    def _copied(self, row: Ticket) -> tuple[int, int] | None:
        """Let a row that stands before a block have what another has of the block's beginning."""
        if row.seen != row.published * self._pool.size:
            return None
        tokens = row.continuation.prompt[row.seen : -1][: self._pool.size]
        block, count = self._pool.beginning(self._before(row), tokens)
        row.seen += count
        return (block, row.blocks[row.published]) if count else None

    def _publish(self, row: Ticket) -> None:
        size = self._pool.size
        while (row.published + 1) * size <= row.seen:
            start = row.published * size
            tokens = row.part(range(start, start + size))
            self._pool.publish(row.blocks[row.published], self._before(row), tokens)
            row.published += 1

    def _before(self, row: Ticket) -> int:
        return row.blocks[row.published - 1] if row.published else 0

    def _leave(self, row: Ticket) -> None:
        self.rows.remove(row)
        self._pool.release(row.blocks)
        row.blocks = []
