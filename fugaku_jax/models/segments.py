"""Documents inside a packed row: where positions and attention start anew."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from fugaku_jax.config import DataConfig


def positions_in(segments: Int[Array, "B T"]) -> Int[Array, "B T"]:
    """Return each token's index within its segment, for the position embedding.

    A segment that began before the row is counted from the row's first token.
    """
    starts = jnp.pad(segments[:, 1:] != segments[:, :-1], ((0, 0), (1, 0)))
    index = jnp.arange(segments.shape[1], dtype=jnp.int32)[None, :]
    return index - jax.lax.cummax(jnp.where(starts, index, 0), axis=1)


def token_before_text(data: DataConfig, end_of_document: int) -> int | None:
    """Return what stands before a text that a model is to know as it knows its documents.

    That is the end of the document before it, as in training; None, nothing, where attention
    started anew behind that: no token of a document has seen it there.
    """
    return None if data.reset_at_document else end_of_document
