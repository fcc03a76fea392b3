"""Documents inside a packed sample: where attention and positions start anew."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from fugaku_jax.config import DataConfig


def document_segments(
    tokens: Int[Array, "B T"], end_of_document: int
) -> tuple[Int[Array, "B T"], Int[Array, "B T"]]:
    """Number the documents of each sample and the tokens of each document.

    The end-of-document token belongs to the document that it ends.

    Returns:
        positions: each token's index within its document (or within the sample, if the document
            began before it), for the position embedding.
        segment_ids: 0 for the sample's first document, 1 for the second, ...
    """
    starts = jnp.pad(tokens[:, :-1] == end_of_document, ((0, 0), (1, 0)))
    segment_ids = jnp.cumsum(starts, axis=1, dtype=jnp.int32)
    index = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None, :]
    first = jax.lax.cummax(jnp.where(starts, index, 0), axis=1)
    return index - first, segment_ids


def token_before_text(data: DataConfig, end_of_document: int) -> int | None:
    """Return what stands before a text that a model is to know as it knows its documents.

    That is the end of the document before it, as in training; None, nothing, where attention
    started anew behind that: no token of a document has seen it there.
    """
    return None if data.reset_at_document else end_of_document
