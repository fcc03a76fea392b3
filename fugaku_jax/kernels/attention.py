"""Causal self-attention."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from fugaku_jax.kernels.dropout import dropout


def attention(
    q: Float[Array, "B T H K"],
    k: Float[Array, "B T H K"],
    v: Float[Array, "B T H K"],
    segment_ids: Int[Array, "B T"] | None = None,
    dropout_rate: float = 0.0,
    dropout_key: Key[Array, ""] | None = None,
) -> Float[Array, "B T H K"]:
    """Let every position attend to itself and to what stands before it.

    Scores and softmax are fp32; the products are in the type of the operands.

    Args:
        segment_ids: if given, a position sees only positions with its own number.
        dropout_rate: probability of dropping an attention weight.
        dropout_key: key of the dropout mask; None keeps all weights.

    Source: Vaswani et al., "Attention Is All You Need", 2017, equation 1.
    """
    length, head_dim = q.shape[1], q.shape[3]
    q = q * jnp.asarray(1 / math.sqrt(head_dim), q.dtype)
    scores = jnp.einsum("bthk,bshk->bhts", q, k, preferred_element_type=jnp.float32)
    position = jnp.arange(length)
    visible = (position[:, None] >= position[None, :])[None, None]
    if segment_ids is not None:
        visible &= (segment_ids[:, :, None] == segment_ids[:, None, :])[:, None]
    scores = jnp.where(visible, scores, -jnp.inf)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    weights = dropout(weights, dropout_rate, dropout_key)
    return jnp.einsum("bhts,bshk->bthk", weights, v)
