"""Many requests at a time: they come, are answered side by side, and leave, between two steps.

A step is one pass of the model (or a few, where all only go on) over the newest token of every row
and over pieces of the prompts of those that have just come. A row's tokens depend on its own
prompt, options and seed alone. All methods may be called from any thread; `step` and `score` from
one. Tensor devices share the work as in training; along other axes all do the same. What a step
runs follows from what was asked and in which order, so processes that are asked alike run alike.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from fugaku_jax.data.tokenizer import Tokenizer
from fugaku_jax.errors import InputError
from fugaku_jax.inference.blocks import BlockPool
from fugaku_jax.inference.cache import empty_cache
from fugaku_jax.inference.continuation import Continuation, Options, prompt_tokens
from fugaku_jax.inference.packing import pack
from fugaku_jax.inference.ragged import (
    ALTERNATIVES,
    Chosen,
    Pieces,
    Ragged,
    Texts,
    extend,
    repeat,
    score,
)
from fugaku_jax.inference.scheduler import Alternatives, News, Piece, Scheduler, Ticket
from fugaku_jax.inference.weights import Weights, laid_out
from fugaku_jax.layout.mesh import active, mesh_of
from fugaku_jax.models.gpt import GPT

BLOCK = 16
"""Tokens of a block of the cache."""
CHUNK = 256
"""Most tokens of prompts in a pass."""
AT_ONCE = 4
"""Tokens of a row in a step, where no prompt waits and nothing else is asked for."""
MOST_AT_ONCE = 32
"""As many as there may be, which is quickest where nobody reads along."""


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
        weights: Weights = None,
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
            weights: type of what products read, if it is not `dtype`.

        Raises:
            InputError: a number is below 1.
        """
        whole = model.config.sequence_length
        positions = slots * whole if positions is None else positions
        for name, value in (("slots", slots), ("queue", queue), ("positions", positions)):
            if value < 1:
                raise InputError(f"{name} is {value}, but it must be at least 1.")
        model = _without_replicas(model)
        self.config, self.tokenizer, self.first_token = model.config, tokenizer, first_token
        self.pool = BlockPool(-(-positions // BLOCK), BLOCK)
        self.requests = Scheduler(self.pool, slots, queue, min(whole, self.pool.blocks * BLOCK))
        self._mesh = mesh_of(nnx.state(model))
        with active(self._mesh):
            self._structure, self._weights = nnx.split(laid_out(model, dtype, weights))
            self._cache = empty_cache(model, self.pool.blocks + 1, BLOCK, dtype)
        ends: Any = np.array(tokenizer.ends, np.int32)
        count: Any = np.int32(tokenizer.vocab_size)
        self._pieces = Pieces(ends, count)
        # Few, since each is a program of its own.
        self._widths = _sizes(1, slots, 2)
        self._lengths = _sizes(16, CHUNK + slots, 4)

    @property
    def slots(self) -> int:
        """Most requests that are answered at once."""
        return self.requests.slots

    @property
    def busy(self) -> int:
        """How many requests are being answered."""
        return len(self.requests.rows)

    @property
    def queued(self) -> int:
        """How many wait."""
        return len(self.requests.waiting)

    @property
    def positions(self) -> int:
        """Most tokens of a request, prompt and continuation together."""
        return self.requests.positions

    def tokens(self, prompt: str) -> list[int]:
        """Return the tokens of a prompt, as `prompt_tokens`."""
        return prompt_tokens(self.tokenizer, self.first_token, prompt)

    def check(self, tokens: Sequence[int], alternatives: int = 0) -> None:
        """Refuse what `submit` would refuse at any time.

        Raises:
            InputError: the prompt has no tokens or unknown ones, or leaves no room; or so many
                alternatives are not told.
        """
        if not tokens or not all(0 <= token < self.tokenizer.vocab_size for token in tokens):
            raise InputError("A prompt needs a token, and none but those of the tokenizer.")
        if len(tokens) >= self.positions:
            what = "model" if self.positions == self.config.sequence_length else "cache"
            raise InputError(
                f"The prompt has {len(tokens)} tokens, but the {what} has {self.positions} "
                "positions in all; shorten it."
            )
        if not 0 <= alternatives <= ALTERNATIVES:
            raise InputError(
                f"alternatives is {alternatives}, but it must be from 0 to {ALTERNATIVES}."
            )

    def submit(self, tokens: Sequence[int], options: Options, alternatives: int = 0) -> Ticket:
        """Take a request; `step` answers it.

        Args:
            tokens: of the prompt, with what stands before it, as `tokens` gives them.
            options: how it goes on.
            alternatives: how many of the most probable tokens are told for each place.

        Raises:
            InputError: as `check`.
            EngineFull: as many wait as may.
        """
        self.check(tokens, alternatives)
        ticket = Ticket(Continuation(self.tokenizer, tokens, options), alternatives)
        self.requests.submit(ticket)
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """Forget a request, wherever it is; nothing if it has ended."""
        self.requests.cancel(ticket)

    def step(self, at_once: int = AT_ONCE) -> list[News]:
        """Answer all requests a little; return what is new, for those of which anything is.

        Args:
            at_once: tokens of a row where no prompt waits, at most `MOST_AT_ONCE`.
        """
        pieces = self.requests.next_pass(CHUNK)
        if not pieces:
            return []
        found, news = self._run(pieces, at_once), []
        for number, piece in enumerate(pieces):
            if piece.is_last:
                row = piece.row
                told = _alternatives(found, number, row.alternatives)
                chosen = found.tokens[:, number].tolist(), found.log_probs[:, number].tolist()
                news.append(self.requests.add(row, *chosen, told))
        return [each for each in news if each]

    def prepare(self) -> None:
        """Compile all programs that steps need, so that none is compiled while somebody waits."""
        for width in self._widths:
            self._repeat(*self._pack([], width, width), 0)
        for width in self._widths[::-2]:
            for length in {max(length, width) for length in self._lengths}:
                self._extend(*self._pack([], length, width))

    def answers(self, asked: Iterable[tuple[Sequence[int], Options]]) -> Iterator[Continuation]:
        """Yield what follows prompts, whole, in their order; all slots are kept busy.

        Args:
            asked: tokens and options as for `submit`, which raises what this raises.
        """
        rows: deque[Ticket] = deque()
        try:
            for tokens, options in asked:
                while self.queued >= self.requests.queue:
                    self.step()
                rows.append(self.submit(tokens, options))
                while rows and rows[0].continuation.finish:
                    yield rows.popleft().continuation
            while rows:
                while not rows[0].continuation.finish:
                    # Those who wait begin when a row has ended, which should soon be seen.
                    self.step(AT_ONCE if self.queued else MOST_AT_ONCE)
                yield rows.popleft().continuation
        finally:  # nobody may want the rest
            for row in rows:
                self.cancel(row)

    def score(
        self, tokens: Sequence[int], alternatives: int = 0
    ) -> tuple[list[float], list[Alternatives]]:
        """Return the logarithms of the probabilities of all tokens but the first, given those
        before them, and the most probable tokens of these places. No step is taken meanwhile.

        Args:
            tokens: of a text, with what stands before it.
            alternatives: how many of the most probable tokens are told for each place.

        Raises:
            InputError: there are none, unknown ones, or more than there are positions.
            EngineFull: the cache has no room now.
        """
        count = len(tokens) - 1
        self.check(tokens[:count] or tokens, alternatives)
        self.check(tokens[count:])
        row = Ticket(Continuation(self.tokenizer, tokens, Options(1)))
        row.blocks = self.requests.take(count)
        log_probs: list[float] = []
        told: list[Alternatives] = []
        for start in range(0, count, CHUNK):
            piece = Piece(row, range(start, min(start + CHUNK, count)))
            ragged, _ = self._pack([piece], CHUNK, 1)
            targets: Any = np.zeros(CHUNK, np.int32)
            targets[: len(piece.places)] = tokens[start + 1 : piece.places.stop + 1]
            with active(self._mesh):
                given = self._weights, self._cache, ragged, targets, self._pieces
                self._cache, found = score(self._structure, *given)
            here = _on_host(found, len(piece.places))
            log_probs += here.log_probs[:, 0].tolist()
            told += _alternatives(here, 0, alternatives)
        self.requests.give_back(row.blocks)
        return log_probs, told

    def _run(self, pieces: Sequence[Piece], at_once: int) -> Chosen:
        """Run a pass, or a few if there are only newest tokens."""
        only_newest = all(piece.row.continuation.tokens for piece in pieces)
        if only_newest:
            width = _bucket(len(pieces), self._widths)
            ragged, texts = self._pack(pieces, width, width)
            steps = min(at_once, MOST_AT_ONCE, int(np.max(texts.room)))
            return self._repeat(ragged, texts, steps)
        width = _bucket(len(pieces), self._widths[::-2])
        length = _bucket(sum(len(piece.places) for piece in pieces), self._lengths)
        return self._extend(*self._pack(pieces, max(length, width), width))

    def _pack(self, pieces: Sequence[Piece], length: int, width: int) -> tuple[Ragged, Texts]:
        limits = [self.requests.limit(piece.row) for piece in pieces]
        most = self.positions
        return pack(pieces, limits, length, width, most, self.pool.needed(most))

    def _extend(self, ragged: Ragged, texts: Texts) -> Chosen:
        with active(self._mesh):
            given = self._weights, self._cache, ragged, texts, self._pieces
            self._cache, found = extend(self._structure, *given)
        return _on_host(found, 1)

    def _repeat(self, ragged: Ragged, texts: Texts, steps: int) -> Chosen:
        with active(self._mesh):
            given = self._weights, self._cache, ragged, texts, self._pieces
            self._cache, found = repeat(self._structure, MOST_AT_ONCE, *given, steps)
        return _on_host(found, steps)


def _without_replicas(model: GPT) -> GPT:
    """Return a model of whose rows every device has all: along data axes all do the same."""
    new, rules = nnx.merge(*nnx.split(model)), replace(model.rules, data=())
    for _, module in nnx.iter_graph(new):
        if hasattr(module, "rules"):
            module.rules = rules
    return new


def _on_host(found: Chosen, count: int) -> Chosen:
    """Return the first passes of what was found, as NumPy's arrays."""
    fields: Any = [np.asarray(x)[:count] for x in found]
    return Chosen(*fields)


def _alternatives(found: Chosen, number: int, count: int) -> list[Alternatives]:
    if not count:
        return []
    pairs = zip(found.top[:, number, :count], found.top_log_probs[:, number, :count], strict=True)
    return [dict(zip(*(x.tolist() for x in pair), strict=True)) for pair in pairs]


def _sizes(least: int, most: int, factor: int) -> list[int]:
    """Return `most` and what is smaller, from `least` on, each `factor` times the one before."""
    sizes = [least]
    while sizes[-1] < most:
        sizes.append(sizes[-1] * factor)
    return [*sizes[:-1], most]


def _bucket(count: int, sizes: Sequence[int]) -> int:
    return min(size for size in sizes if size >= count)
