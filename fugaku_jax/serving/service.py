"""What the endpoints share: a model that answers, and what it is told by."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

from fugaku_jax.inference.scheduler import Alternatives
from fugaku_jax.inference.stream import Detokenizer
from fugaku_jax.serving.engine_thread import Ask, EngineThread, Heard
from fugaku_jax.serving.limits import Limits
from fugaku_jax.serving.metrics import Metrics
from fugaku_jax.serving.refusals import Refusal, invalid
from fugaku_jax.tracing.matches import TracedText
from fugaku_jax.tuning.chat_template import ChatTemplate

LEAST_LOG_PROB = -9999.0
"""What stands for the logarithm of 0, which JSON cannot write."""

Tracer = Callable[[str], TracedText]
"""Finds where a text stands in what a model was trained on."""


@dataclass(frozen=True)
class Service:
    """A model that is served."""

    name: str
    """As clients call it."""
    thread: EngineThread
    template: ChatTemplate
    """How a dialogue is told to it."""
    limits: Limits
    tracer: Tracer | str
    """Or why there is none, as a sentence."""
    metrics: Metrics
    created: int = field(default_factory=lambda: int(time.time()))
    """When, in seconds since 1970."""

    def check_model(self, name: str | None) -> None:
        """Raise Refusal if another model is asked for than the one that is here."""
        if name is not None and name != self.name:
            told = f"There is no model {name[:100]!r} here, but {self.name!r}."
            raise Refusal(404, told, "model_not_found", "model")

    async def tokens(self, text: str) -> list[int]:
        """Return a prompt's tokens, with what stands before it; raises InputError if it is none."""
        return await asyncio.to_thread(self.thread.engine.tokens, text)

    @contextlib.asynccontextmanager
    async def answers(self, asks: Sequence[Ask]) -> AsyncIterator[AsyncIterator[Heard]]:
        """As `EngineThread.answers`, and counted; a prompt without room is a Refusal."""
        for tokens, *_ in asks:
            self._check_room(tokens)
        began, metrics, heard = time.perf_counter(), self.metrics, set[int]()

        async def counted(pieces: AsyncIterator[Heard]) -> AsyncIterator[Heard]:
            async for number, new in pieces:
                if number not in heard and new.tokens:
                    heard.add(number)
                    metrics.first_token_seconds.observe(time.perf_counter() - began)
                metrics.generated_tokens.inc(len(new.tokens))
                yield number, new

        async with self.thread.answers(asks) as pieces:
            metrics.prompt_tokens.inc(sum(len(tokens) for tokens, *_ in asks))
            yield counted(pieces)

    def _check_room(self, tokens: Sequence[int]) -> None:
        room = self.thread.engine.positions
        if len(tokens) >= room:
            told = f"The prompt has {len(tokens)} tokens, but there are {room} positions in all"
            raise invalid(f"{told}; shorten it.", code="context_length_exceeded")

    def most_probable(
        self, alternatives: Alternatives, token: int, written: str
    ) -> list[tuple[str, float]]:
        """Return the texts of alternatives with the logarithms of their probabilities.

        Args:
            alternatives: of a place.
            token: the one that stands there.
            written: its text there, which may be another than its text alone.
        """
        decode = self.thread.engine.tokenizer.decode
        return [
            (written if each == token else decode([each]), finite(log_prob))
            for each, log_prob in alternatives.items()
        ]

    def detokenizer(self, before: Sequence[int] = ()) -> Detokenizer:
        """Return what writes tokens one by one, as they follow others."""
        return Detokenizer(self.thread.engine.tokenizer, before)


def finite(log_prob: float) -> float:
    """Return a logarithm that JSON can write."""
    return max(log_prob, LEAST_LOG_PROB)
