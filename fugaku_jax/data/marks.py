"""Marks on tokens: which of them a model is to learn to say, and where a document begins.

A store of dialogues keeps them in the two highest bits of each token, so that what is hashed, read
and traced is one array.
"""

import numpy as np
from jaxtyping import Bool, Int32, Integer, UInt32

END_OF_DOCUMENT = "\ufdd5"
"""Stands for the end-of-document token in the text of a dialogue, where a template says
`eos_token`: a character that Unicode keeps for a program's own use."""
CONTEXT = 1 << 31
"""Of a token that is only to be read: a question, a frame around it, padding."""
FIRST = 1 << 30
"""Of the first token of a document, and of padding. Every token is below it."""


def mark(
    tokens: Integer[np.ndarray, " T"], learned: Bool[np.ndarray, " T"]
) -> UInt32[np.ndarray, " T"]:
    """Return the tokens of a document with their marks.

    Args:
        tokens: of the document, at least one.
        learned: whether the model is to learn to say each.
    """
    marked = tokens.astype(np.uint32) | np.where(learned, 0, CONTEXT).astype(np.uint32)
    marked[0] |= FIRST
    return marked


def padding(token: int, count: int) -> UInt32[np.ndarray, " N"]:
    """Return tokens that belong to no document and that nothing is learned from."""
    marked = np.full(count, token | CONTEXT, np.uint32)
    marked[:1] |= FIRST
    return marked


def unmarked(marked: Integer[np.ndarray, "*B"]) -> Int32[np.ndarray, "*B"]:
    """Return the tokens alone."""
    return (marked & (FIRST - 1)).astype(np.int32)


def document_of(marked: Integer[np.ndarray, " T"]) -> Int32[np.ndarray, " N"]:
    """Return the tokens of a document without the padding behind it."""
    begins = np.flatnonzero(marked[1:] & FIRST)
    return unmarked(marked[: begins[0] + 1] if len(begins) else marked)
