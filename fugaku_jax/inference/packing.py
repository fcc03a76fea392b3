"""What a pass of the engine runs, as arrays of one of a few sizes."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from fugaku_jax.inference.continuation import Options
from fugaku_jax.inference.ragged import Ragged, Texts
from fugaku_jax.inference.sampler import Choice
from fugaku_jax.inference.scheduler import Piece


def pack(
    pieces: Sequence[Piece],
    limits: Sequence[int],
    length: int,
    width: int,
    positions: int,
    blocks: int,
) -> tuple[Ragged, Texts]:
    """Return what a pass runs; what only fills the arrays is nobody's.

    Args:
        pieces: of rows.
        limits: how many tokens each row may have.
        length: of the array of tokens.
        width: of the array of rows.
        positions: most tokens of any row.
        blocks: most blocks of any row.
    """
    tokens, indices, owners = (np.zeros(length, np.int32) for _ in range(3))
    tables, copies = np.zeros((width + 1, blocks), np.int32), np.zeros((width, 2), np.int32)
    last, lengths, prompts, room = (np.zeros(width, np.int32) for _ in range(4))
    held, place = np.zeros((width, positions), np.int32), 0
    owners[:] = width
    for number, each in enumerate(pieces):
        row, places = each.row, each.places
        here = slice(place, place + len(places))
        tokens[here], indices[here], owners[here] = row.part(places), places, number
        place += len(places)
        tables[number, : len(row.blocks)] = row.blocks
        copies[number] = each.copied or 0
        last[number], lengths[number] = place - 1, row.length
        prompts[number] = len(row.continuation.prompt)
        room[number] = limits[number] - row.length
        if row.continuation.options.repetition_penalty != 1:
            held[number, : row.length] = row.part(range(row.length))
    options = [each.row.continuation.options for each in pieces]
    tell = np.bool_(any(each.row.alternatives for each in pieces))
    ragged: Any = (tokens, indices, owners, tables, copies)
    given: Any = (last, held, lengths, prompts, room, tell, choice_of(options, width))
    return Ragged(*ragged), Texts(*given)


def choice_of(options: Sequence[Options], width: int) -> Choice:
    """Return how the tokens of so many rows are chosen, those of `options` and nobody's."""
    options = [*options, *[Options(1, temperature=0)] * (width - len(options))]

    def column(name: str, dtype: type) -> Any:
        return np.array([getattr(each, name) for each in options], dtype)

    return Choice(
        temperature=column("temperature", np.float32),
        top_k=column("top_k", np.int32),
        top_p=column("top_p", np.float32),
        repetition_penalty=column("repetition_penalty", np.float32),
        seed=column("seed", np.uint32),
    )
