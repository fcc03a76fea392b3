"""Many requests at a time: they come, are answered side by side, and leave, between two steps.

A step is one pass of the model (or a few, where all only go on) over the newest token of every row
and over pieces of the prompts of those that have just come. A row's tokens depend on its own
prompt, options and seed alone. All methods may be called from any thread, `step` and `score` from
one.
"""

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from fugaku_jax.data.tokenizer import Tokenizer
from fugaku_jax.errors import InputError, RunError
from fugaku_jax.inference.blocks import BlockPool
from fugaku_jax.inference.cache import empty_cache
from fugaku_jax.inference.continuation import Continuation, Finish, Options
from fugaku_jax.inference.decoding import Pieces
from fugaku_jax.inference.ragged import Chosen, Ragged, Texts, extend, repeat, score
from fugaku_jax.inference.sampler import Choice
from fugaku_jax.inference.weights import laid_out
from fugaku_jax.layout.mesh import active, mesh_of
from fugaku_jax.models.gpt import GPT

BLOCK = 16
"""Tokens of a block of the cache."""
CHUNK = 256
"""Most tokens of prompts in a pass."""
AT_ONCE = 4
"""Most tokens of a row in a step, where no prompt waits."""


class EngineFull(RunError):
    """As many requests wait as may."""


@dataclass(eq=False)
class Ticket:
    """A request, from `submit` to its end."""

    continuation: Continuation
    """Its text, tokens, log-probabilities and end, as far as they are known."""
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
        return (prompt[places.start :] + new)[: len(places)]


@dataclass(frozen=True)
class Progress:
    """What a step found for a request."""

    ticket: Ticket
    text: str
    """What is new of the text; whole characters, before any stop string."""
    tokens: list[int]
    log_probs: list[float]
    finish: Finish | None


class Engine:
    """A model that answers requests as they come."""

    def __init__(
        self,
        model: GPT,
        tokenizer: Tokenizer,
        first_token: int | None,
        dtype: DTypeLike = jnp.bfloat16,
        slots: int = 16,
        queue: int = 256,
        positions: int | None = None,
    ) -> None:
        """Lay the weights out, and make a cache.

        Args:
            model: the model; it is not needed any longer.
            tokenizer: its tokenizer.
            first_token: what stands before every prompt; None for nothing.
            dtype: type of weights, cache and arithmetic.
            slots: most requests that are answered at once.
            queue: most that wait.
            positions: of the cache; as many as all slots can use if not given.

        Raises:
            InputError: a number is below 1, or the mesh shares rows.
        """
        for name, value in (("slots", slots), ("queue", queue), ("positions", positions or 1)):
            if value < 1:
                raise InputError(f"{name} is {value}, but it must be at least 1.")
        if model.rules.parts("batch") > 1:
            raise InputError("The engine is shared by mesh.tensor alone; let mesh.data be 1.")
        self.config, self.tokenizer, self.slots, self.queue = model.config, tokenizer, slots, queue
        self.first_token = first_token
        self._mesh, whole = mesh_of(nnx.state(model)), model.config.sequence_length
        blocks = -(-(positions or slots * whole) // BLOCK)
        self.pool = BlockPool(blocks, BLOCK)
        with active(self._mesh):
            self._structure, self._weights = nnx.split(laid_out(model, dtype))
            self._cache = empty_cache(model, blocks + 1, BLOCK, dtype)
        ends: Any = np.array(tokenizer.ends, np.int32)
        count: Any = np.int32(tokenizer.vocab_size)
        self._pieces = Pieces(ends, count)
        self._waiting: deque[Ticket] = deque()
        self._rows: list[Ticket] = []
        self._lock = threading.Lock()

    @property
    def positions(self) -> int:
        """Most tokens of a request, prompt and continuation together."""
        return min(self.config.sequence_length, self.pool.blocks * BLOCK)

    @property
    def busy(self) -> int:
        """How many requests are being answered."""
        return len(self._rows)

    @property
    def queued(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def tokens(self, prompt: str) -> list[int]:
        """Return the tokens of a prompt with what stands before it; at least one."""
        before = [] if self.first_token is None else [self.first_token]
        return [*before, *self.tokenizer.encode(prompt)] or [self.tokenizer.end_of_document]

    def submit(self, tokens: Sequence[int], options: Options) -> Ticket:
        """Take a request; `step` answers it.

        Args:
            tokens: of the prompt, with what stands before it, as `tokens` gives them.
            options: how it goes on.

        Raises:
            InputError: the prompt has no tokens or unknown ones, or leaves no room.
            EngineFull: as many wait as may.
        """
        ticket = self._checked(tokens, options)
        with self._lock:
            if len(self._waiting) >= self.queue:
                raise EngineFull(f"{self.queue} requests wait already; try again later.")
            self._waiting.append(ticket)
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """Forget a request, wherever it is; nothing if it has ended."""
        with self._lock:
            if ticket in self._waiting:
                self._waiting.remove(ticket)
            elif ticket in self._rows:
                self._leave(ticket)

    def step(self) -> list[Progress]:
        """Answer all requests a little; return what is new, for those of which anything is."""
        with self._lock:
            self._join()
            rows, pieces = self._scheduled()
        if not rows:
            return []
        found = self._run(rows, pieces)
        with self._lock:
            return [
                self._progress(row, found, number)
                for number, (row, piece) in enumerate(zip(rows, pieces, strict=True))
                if row in self._rows and piece.stop == row.length
            ]

    def score(self, tokens: Sequence[int]) -> list[float]:
        """Return the logarithms of the probabilities of all tokens but the first, given those
        before them. No step is taken meanwhile.

        Raises:
            InputError: there are none, unknown ones, or more than the model has positions.
            EngineFull: the cache has no room now.
        """
        row = self._checked(tokens[:-1] or tokens, Options(1))
        with self._lock:
            blocks = self.pool.take(self.pool.needed(len(tokens) - 1))
        if blocks is None:
            raise EngineFull("The cache has no room now; try again later.")
        row.blocks, found = blocks, []
        for start in range(0, len(tokens) - 1, CHUNK):
            piece = range(start, min(start + CHUNK, len(tokens) - 1))
            ragged, _ = self._arrays([row], [piece], CHUNK, 1)
            targets: Any = np.zeros(CHUNK, np.int32)
            targets[: len(piece)] = tokens[piece.start + 1 : piece.stop + 1]
            with active(self._mesh):
                given = self._weights, self._cache, ragged, targets, self._pieces
                self._cache, log_probs = score(self._structure, *given)
            found += np.asarray(log_probs)[: len(piece)].tolist()
        with self._lock:
            self.pool.release(blocks)
        return found

    def run(self, rows: Sequence[Ticket]) -> None:
        """Step until these have ended."""
        while not all(row.continuation.finish for row in rows):
            self.step()

    def _checked(self, tokens: Sequence[int], options: Options) -> Ticket:
        if not tokens or not all(0 <= token < self.tokenizer.vocab_size for token in tokens):
            raise InputError("A prompt needs a token, and none but those of the tokenizer.")
        if len(tokens) >= self.positions:
            raise InputError(
                f"The prompt has {len(tokens)} tokens, but there are {self.positions} positions "
                "in all; shorten it."
            )
        return Ticket(Continuation(self.tokenizer, tokens, options))

    def _limit(self, row: Ticket) -> int:
        wanted = len(row.continuation.prompt) + row.continuation.options.max_tokens
        return min(wanted, self.positions)

    def _join(self) -> None:
        """Give slots and blocks to those that have waited longest."""
        while self._waiting and len(self._rows) < self.slots:
            row = self._waiting[0]
            self._adopt(row)
            blocks = self.pool.take(self.pool.needed(self._limit(row)) - len(row.blocks))
            if blocks is None:
                self.pool.release(row.blocks)
                row.blocks, row.seen, row.published = [], 0, 0
                return
            row.blocks += blocks
            self._rows.append(self._waiting.popleft())

    def _adopt(self, row: Ticket) -> None:
        """Take over what others have of a prompt's next blocks; its last token is always run."""
        prompt = row.continuation.prompt
        while row.seen == row.published * BLOCK and row.seen + BLOCK < len(prompt):
            before = row.blocks[row.published - 1] if row.published else 0
            block = self.pool.find(before, prompt[row.seen : row.seen + BLOCK])
            if block is None:
                return
            self.pool.share(block)
            if row.published < len(row.blocks):
                self.pool.release([row.blocks[row.published]])
            row.blocks[row.published : row.published + 1] = [block]
            row.seen, row.published = row.seen + BLOCK, row.published + 1

    def _publish(self, row: Ticket) -> None:
        while (row.published + 1) * BLOCK <= row.seen:
            start = row.published * BLOCK
            before = row.blocks[row.published - 1] if row.published else 0
            tokens = row.part(range(start, start + BLOCK))
            self.pool.publish(row.blocks[row.published], before, tokens)
            row.published += 1

    def _scheduled(self) -> tuple[list[Ticket], list[range]]:
        """Return the rows of the next pass, and which of its tokens each runs."""
        rows, pieces, left = [], [], CHUNK
        going_on = [row for row in self._rows if row.continuation.tokens]
        for row in going_on:
            rows.append(row)
            pieces.append(range(row.seen, row.seen + 1))
        for row in self._rows:
            if row.continuation.tokens or not left:
                continue
            self._adopt(row)
            end = min(len(row.continuation.prompt), row.seen + left)
            rows.append(row)
            pieces.append(range(row.seen, end))
            left -= end - row.seen
            row.seen = end
            self._publish(row)
        return rows, pieces

    def _run(self, rows: Sequence[Ticket], pieces: Sequence[range]) -> Chosen:
        """Run a pass, or a few if there are only newest tokens."""
        count = sum(map(len, pieces))
        only_newest = all(row.continuation.tokens for row in rows)
        width = _bucket(len(rows), self.slots, 2 if only_newest else 4)
        length = width if only_newest else _bucket(count, CHUNK + self.slots, 4)
        ragged, texts = self._arrays(rows, pieces, max(length, width), width)
        with active(self._mesh):
            given = self._weights, self._cache, ragged, texts, self._pieces
            if only_newest:
                steps = min(AT_ONCE, int(texts.room.max()))
                self._cache, found = repeat(self._structure, AT_ONCE, *given, steps)
                return Chosen(*(np.asarray(x)[:steps] for x in found))
            self._cache, found = extend(self._structure, *given)
            return Chosen(*map(np.asarray, found))

    def _arrays(
        self, rows: Sequence[Ticket], pieces: Sequence[range], length: int, width: int
    ) -> tuple[Ragged, Texts]:
        whole = self.config.sequence_length
        tokens, positions, owners = (np.zeros(length, np.int32) for _ in range(3))
        tables = np.zeros((width + 1, self.pool.needed(whole)), np.int32)
        owners[:] = width
        last, lengths, prompts, room = (np.zeros(width, np.int32) for _ in range(4))
        held, place = np.zeros((width, whole), np.int32), 0
        for number, (row, piece) in enumerate(zip(rows, pieces, strict=True)):
            here = slice(place, place + len(piece))
            tokens[here] = row.part(piece)
            positions[here], owners[here] = piece, number
            place += len(piece)
            tables[number, : len(row.blocks)] = row.blocks
            last[number], lengths[number] = place - 1, row.length
            prompts[number] = len(row.continuation.prompt)
            room[number] = self._limit(row) - row.length
            if row.continuation.options.repetition_penalty != 1:
                held[number, : row.length] = row.part(range(row.length))
        options = [row.continuation.options for row in rows]
        options += [Options(1, temperature=0)] * (width - len(rows))

        def column(name: str, dtype: type) -> Any:
            return np.array([getattr(each, name) for each in options], dtype)

        choice = Choice(
            temperature=column("temperature", np.float32),
            top_k=column("top_k", np.int32),
            top_p=column("top_p", np.float32),
            repetition_penalty=column("repetition_penalty", np.float32),
            seed=column("seed", np.uint32),
        )
        given: Any = (last, held, lengths, prompts, room)
        ragged: Any = (tokens, positions, owners, tables)
        return Ragged(*ragged), Texts(*given, choice)

    def _progress(self, row: Ticket, found: Chosen, number: int) -> Progress:
        text = row.continuation
        shown, told = len(text.text), len(text.tokens)
        room = self._limit(row) - row.length
        tokens = found.tokens[:room, number].tolist()
        text.add(tokens, found.log_probs[:room, number].tolist())
        row.seen = row.length - 1
        self._publish(row)
        if not text.finish and row.length >= self._limit(row):
            text.add([], [])
        if text.finish:
            self._leave(row)
        new = text.tokens[told:], text.log_probs[told:]
        return Progress(row, text.text[shown:], *new, text.finish)

    def _leave(self, row: Ticket) -> None:
        self._rows.remove(row)
        self.pool.release(row.blocks)
        row.blocks = []


def _bucket(count: int, most: int, factor: int) -> int:
    """Return the least power of `factor` that is at least `count`, but at most `most`."""
    size = 1
    while size < count:
        size *= factor
    return min(size, most)
