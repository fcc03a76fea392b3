"""Causal self-attention, a block of queries at a time.

A block of queries sees only the keys before its end, so nothing is computed that the causal mask
would hide but for the block's own corner, and the weights of one block are all that is ever in
memory: the backward pass computes them again.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from fugaku_jax.kernels.dropout import dropout

MIN_BLOCK = 64
MAX_BLOCKS = 16


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
    q, k, v = (jnp.swapaxes(x, 1, 2) for x in (q, k, v))
    block = max(MIN_BLOCK, -(-length // MAX_BLOCKS))
    outputs = []
    for number, start in enumerate(range(0, length, block)):
        stop = min(start + block, length)
        key = None if dropout_key is None else jax.random.fold_in(dropout_key, number)
        segments = (
            None if segment_ids is None else (segment_ids[:, start:stop], segment_ids[:, :stop])
        )
        outputs.append(
            _attend(
                q[:, :, start:stop], k[:, :, :stop], v[:, :, :stop], segments, key, dropout_rate
            )
        )
    return jnp.swapaxes(jnp.concatenate(outputs, axis=2), 1, 2)


@functools.partial(jax.checkpoint, static_argnums=5)
def _attend(
    q: Float[Array, "B H Q K"],
    k: Float[Array, "B H S K"],
    v: Float[Array, "B H S K"],
    segments: tuple[Int[Array, "B Q"], Int[Array, "B S"]] | None,
    dropout_key: Key[Array, ""] | None,
    dropout_rate: float,
) -> Float[Array, "B H Q K"]:
    """Attend from a block of queries, the last ones before S, to all S keys."""
    queries, keys = q.shape[2], k.shape[2]
    scores = jnp.einsum("bhqk,bhsk->bhqs", q, k, preferred_element_type=jnp.float32)
    position = keys - queries + jnp.arange(queries)
    visible = (position[:, None] >= jnp.arange(keys)[None, :])[None, None]
    if segments is not None:
        visible &= (segments[0][:, :, None] == segments[1][:, None, :])[:, None]
    # Every position sees itself, so a large negative number does what -inf would.
    weights = jax.nn.softmax(jnp.where(visible, scores, -1e30), axis=-1).astype(v.dtype)
    return jnp.einsum("bhqs,bhsk->bhqk", dropout(weights, dropout_rate, dropout_key), v)
