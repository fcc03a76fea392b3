"""A SentencePiece unigram model as the vocabulary of a GGUF file, for llama.cpp to cut texts alike.

llama.cpp knows several kinds of tokenizers. Its `llama` merges pieces in the order of their scores,
its `t5` looks for the largest sum of scores but knows no bytes, and its `plamo2` looks for the
largest sum and writes by bytes what no piece is made of, as SentencePiece does: that one is taken.
Two things that are not alike are put right here. It adds scores as whole
numbers, of 1e-4, and takes bytes at the price of 1e7 of them, where SentencePiece asks 10 more than
for the least likely piece: so scores, multiples of `GRID`, are multiplied until that is the price.
And it finds control
pieces in a text, unless their score says never. What stays: of two cuts of equal
sums it takes the one whose first piece is longest, and SentencePiece that whose last is.

Source: https://github.com/ggml-org/llama.cpp, src/llama-vocab.cpp, `llm_tokenizer_plamo2`.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32

from fugaku_jax.data.exact_scores import GRID, model_pb2
from fugaku_jax.data.tokenizer import Tokenizer
from fugaku_jax.errors import InputError

KIND = "plamo2"
"""What llama.cpp calls this kind of tokenizer."""
UNIT = 1e-4
"""What a score's whole numbers count in llama.cpp."""
UNKNOWN = 10_000_000
"""What it asks for a character of which there is no piece, in units."""
NEVER = np.float32(-2 * UNKNOWN * UNIT)
"""The score with which it finds no piece in a text."""
_SPACE = "\u2581"
_PENALTY = 10.0  # kUnkPenalty, in SentencePiece's unigram_model.cc


class Vocabulary(NamedTuple):
    """What a GGUF file says of tokens, each list by id."""

    texts: list[str]
    scores: Float32[np.ndarray, "V"]
    types: list[int]
    """SentencePiece's numbers of kinds of pieces, which llama.cpp shares."""


def vocabulary(tokenizer: Tokenizer, size: int) -> Vocabulary:
    """Return what llama.cpp is to know of a tokenizer.

    Args:
        tokenizer: the tokenizer.
        size: tokens that the model knows; what is behind the tokenizer's pieces is never found.

    Raises:
        InputError: the model is of another kind than unigram, it normalises text, it has no bytes,
            or a piece is so improbable that llama.cpp has no number for that.
    """
    if tokenizer.only_here:
        raise InputError(f"The tokenizer {tokenizer.only_here}.")
    pieces = list(model_pb2.ModelProto.FromString(tokenizer.exact_model_bytes).pieces)
    kinds = model_pb2.ModelProto.SentencePiece
    by_byte = {tokenizer.byte(id) for id in range(len(pieces))} - {None}
    if len(by_byte) < 256 or tokenizer.byte(0) is not None:
        raise InputError(
            "The tokenizer has no pieces for the 256 bytes (or one with id 0), without which "
            "llama.cpp cannot cut texts as it does."
        )
    step = _step(pieces)
    scores = [
        np.float32(round(each.score / GRID) * step * UNIT) if each.type == kinds.NORMAL else NEVER
        for each in pieces
    ]
    absent = range(len(pieces), size)
    return Vocabulary(
        [
            *(each.piece.replace(_SPACE, " ") for each in pieces),
            *(f"[absent {id}]" for id in absent),
        ],
        np.array([*scores, *(NEVER for _ in absent)], np.float32),
        [*(each.type for each in pieces), *(kinds.UNUSED for _ in absent)],
    )


def _step(pieces: list[Any]) -> int:
    """Return how many units `GRID` is, so that an unknown character costs what it does there."""
    normal = model_pb2.ModelProto.SentencePiece.NORMAL
    lowest = min(each.score for each in pieces if each.type == normal)
    step = round(UNKNOWN * GRID / (_PENALTY - lowest))
    if not step:
        raise InputError(f"The tokenizer has a piece of score {lowest:g}, too low for llama.cpp.")
    return step
