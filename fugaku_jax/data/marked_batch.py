"""Rows with marks as batches: what of a store of dialogues a model learns from."""

import numpy as np
from jaxtyping import UInt32

from fugaku_jax.data.batch import Batch
from fugaku_jax.data.marks import CONTEXT, FIRST, unmarked


def marked_batch(marked: UInt32[np.ndarray, "*B T_plus_1"], prompt_weight: float = 0.0) -> Batch:
    """Return rows with marks as a model learns from them: weights are 1 where it learns.

    Each document of a row is a segment.

    Args:
        marked: tokens and their marks; a document begins with each row.
        prompt_weight: weight of the other tokens of a document of which something is learned, but
            for its first, which nothing of it predicts. Those of padding have 0.
    """
    learned, begins = marked & CONTEXT == 0, marked & FIRST != 0
    weights = learned[..., 1:].astype(np.float32)
    if prompt_weight:
        document = np.cumsum(begins)  # through all rows, as they lie
        holds_answer = np.bincount(document, learned.ravel())[document].reshape(marked.shape) > 0
        prompt = holds_answer & ~learned & ~begins
        weights[prompt[..., 1:]] = prompt_weight
    segments = np.cumsum(begins[..., :-1], -1, dtype=np.int32) - begins[..., :1]
    return Batch(unmarked(marked), weights, segments)
