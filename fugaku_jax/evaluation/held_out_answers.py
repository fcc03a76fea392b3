"""How a model answers held-out dialogues: how well it predicts the answers, and whether it ends."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from fugaku_jax.data.marks import CONTEXT, FIRST, unmarked
from fugaku_jax.data.store import Store
from fugaku_jax.errors import InputError
from fugaku_jax.inference.continuation import Options
from fugaku_jax.inference.engine import Engine


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
    engine: Engine, store: Store, options: Options, most: int | None = None
) -> Answered:
    """Have a model answer held-out dialogues.

    Args:
        engine: the model; what leaves it no room is no answer that ends.
        store: of dialogues that are told to it as they are here; of each the last answer is taken
            away. Where several begin alike, as pairs do, that is asked once.
        options: how they are answered; each dialogue has a seed of its own, from this one on.
        most: how many are asked, the first of the store; all if not given.

    Raises:
        InputError: the store is of another tokenizer, holds nothing out, or nothing was to be
            learned of what it does.
    """
    if store.tokenizer().sha256 != engine.tokenizer.sha256:
        raise InputError(f"{store.url} was cut into tokens by another tokenizer than the model's.")
    before = [] if engine.first_token is None else [engine.first_token]
    prompts = list(dict.fromkeys(map(tuple, _prompts(store))))[:most]
    if not prompts:
        raise InputError(f"{store.url} has no held-out dialogues; hold some out.")
    asked = (
        ([*before, *prompt], replace(options, seed=options.seed + place))
        for place, prompt in enumerate(prompts)
    )
    ended = tokens = 0
    for row in engine.answers(each for each in asked if len(each[0]) < engine.positions):
        ended += row.finish == "end"
        tokens += len(row.tokens)
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
