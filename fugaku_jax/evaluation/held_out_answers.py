"""How a model answers held-out dialogues: how well it predicts the answers, and whether it ends."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from fugaku_jax.data.marks import CONTEXT, FIRST, unmarked
from fugaku_jax.data.store import Store
from fugaku_jax.errors import InputError
from fugaku_jax.inference.continuation import Continuation, Options
from fugaku_jax.inference.generate import Generator

BATCH = 16
"""Dialogues that are answered at once."""


@dataclass(frozen=True)
class Answered:
    """What a model made of some dialogues."""

    asked: int
    """Dialogues."""
    ended: int
    """Answers that the model ended by itself, by an end-of-document token."""
    tokens: int
    """Tokens of all answers."""

    @property
    def share_ended(self) -> float:
        """Of the answers, from 0 to 1."""
        return self.ended / self.asked


def answer_held_out(
    generator: Generator, store: Store, options: Options, most: int | None = None
) -> Answered:
    """Have a model answer held-out dialogues.

    Args:
        generator: the model.
        store: of dialogues that are told to it as they are here; of each the last answer is taken
            away. Where several begin alike, as pairs do, that is asked once.
        options: how they are answered; each dialogue has a seed of its own, from this one on.
        most: how many are asked, the first of the store; all if not given.

    Raises:
        InputError: the store is of another tokenizer, holds nothing out, or nothing was to be
            learned of what it does.
    """
    if store.tokenizer().sha256 != generator.tokenizer.sha256:
        raise InputError(f"{store.url} was cut into tokens by another tokenizer than the model's.")
    before = [] if generator.first_token is None else [generator.first_token]
    prompts = list(dict.fromkeys(map(tuple, _prompts(store))))[:most]
    if not prompts:
        raise InputError(f"{store.url} has no held-out dialogues; hold some out.")
    ended = tokens = 0
    for first in range(0, len(prompts), BATCH):
        rows = [
            Continuation(
                generator.tokenizer, [*before, *prompt], replace(options, seed=options.seed + place)
            )
            for place, prompt in enumerate(prompts[first : first + BATCH], first)
        ]
        for _ in generator.run(rows):
            pass
        ended += sum(row.finish == "end" for row in rows)
        tokens += sum(len(row.tokens) for row in rows)
    return Answered(len(prompts), ended, tokens)


def _prompts(store: Store) -> Iterator[list[int]]:
    """Yield the tokens before the last answer of each held-out dialogue."""
    for table in store.documents(0, "validation").tables(["start", "length"]):
        for start, length in zip(*(column.to_pylist() for column in table.columns), strict=True):
            (marked,) = store.read_marked(0, "validation", np.array([start]), length)
            padding = np.flatnonzero(marked[1:] & FIRST)
            document = marked[: padding[0] + 1] if len(padding) else marked
            learned = document & CONTEXT == 0
            begins = np.flatnonzero(learned[1:] & ~learned[:-1]) + 1
            if len(begins):
                yield unmarked(document[: begins[-1]]).tolist()
