"""What a model learns from in a step, as a loader gives it."""

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import Int32


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Batch:
    """Rows of tokens, what each token counts in the loss, and which tokens belong together.

    Its leaves are NumPy or JAX arrays, or their types or shardings; those of a step have a leading
    axis of M micro-batches.
    """

    # JAX rebuilds the object around leaves of any kind, so the types stand in the words.
    tokens: Any
    """`Int32[Array, "M B T+1"]`: position t sees tokens 0 to t and is to predict token t + 1."""
    weights: Any = None
    """`Float32[Array, "M B T"]`: what the loss of each position counts, 0 leaving it out; the loss
    of a step is their weighted mean. None where all count the same."""
    segments: Any = None
    """`Int32[Array, "M B T"]`: a position attends only to positions of its own number, which
    follow each other, and is counted from the first of them. None where a row is one segment."""
    reference: Any = None
    """`Float32[Array, "M B T"]`: the loss of each position to the model that DPO began with; else
    None."""


def document_segments(
    tokens: Int32[np.ndarray, "*B T_plus_1"], end_of_document: int
) -> Int32[np.ndarray, "*B T"]:
    """Number the documents that the positions of each row are in: 0 for its first, 1, ...

    The end-of-document token belongs to the document that it ends.
    """
    ends = tokens[..., :-2] == end_of_document
    first = np.zeros((*tokens.shape[:-1], 1), np.int32)
    return np.concatenate([first, np.cumsum(ends, -1, dtype=np.int32)], -1)
