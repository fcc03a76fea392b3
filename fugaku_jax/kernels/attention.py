"""Causal self-attention, a block of queries at a time.

A block of queries sees only the keys before its end, so nothing is computed that the causal mask
would hide but for the block's own corner, and the weights of one block are all that is ever in
memory: the backward pass computes them again.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from fugaku_jax.kernels.dropout import Dropout

MIN_BLOCK = 64
MAX_BLOCKS = 16


def attention(
    q: Float[Array, "B T H K"],
    k: Float[Array, "B T H K"],
    v: Float[Array, "B T H K"],
    segment_ids: Int[Array, "B T"] | None = None,
    dropout: Dropout | None = None,
    dropout_rate: float = 0.0,
) -> Float[Array, "B T H K"]:
    """Let every position attend to itself and to what stands before it.

    Scores and softmax are fp32; the products are in the type of the operands.

    Args:
        segment_ids: if given, a position sees only positions with its own number.
        dropout: draws the masks of the weights; None keeps them all.
        dropout_rate: probability of dropping a weight.

    Source: Vaswani et al., "Attention Is All You Need", 2017, equation 1.
    """
    length, head_dim = q.shape[1], q.shape[3]
    q = q * jnp.asarray(1 / math.sqrt(head_dim), q.dtype)
    q, k, v = (jnp.swapaxes(x, 1, 2) for x in (q, k, v))
    block = max(MIN_BLOCK, -(-length // MAX_BLOCKS))
    outputs = []
    for start in range(0, length, block):
        bounds = start, min(start + block, length)
        outputs.append(_attend(q, k, v, segment_ids, dropout, dropout_rate, bounds))
    return jnp.swapaxes(jnp.concatenate(outputs, axis=2), 1, 2)


@functools.partial(jax.checkpoint, static_argnums=(5, 6))
def _attend(
    q: Float[Array, "B H T K"],
    k: Float[Array, "B H T K"],
    v: Float[Array, "B H T K"],
    segment_ids: Int[Array, "B T"] | None,
    dropout: Dropout | None,
    dropout_rate: float,
    bounds: tuple[int, int],
) -> Float[Array, "B H Q K"]:
    """Attend from the block of queries within `bounds` to all keys before its end.

    What the backward pass keeps are the arguments; blocks cut outside would be kept beside them.
    """
    start, stop = bounds
    q, k, v = q[:, :, start:stop], k[:, :, :stop], v[:, :, :stop]
    scores = jnp.einsum("bhqk,bhsk->bhqs", q, k, preferred_element_type=jnp.float32)
    visible = (jnp.arange(start, stop)[:, None] >= jnp.arange(stop)[None, :])[None, None]
    if segment_ids is not None:
        same = segment_ids[:, start:stop, None] == segment_ids[:, None, :stop]
        visible &= same[:, None]
    # Every position sees itself, so a large negative number does what -inf would.
    weights = jax.nn.softmax(jnp.where(visible, scores, -1e30), axis=-1).astype(v.dtype)
    if dropout is not None:
        weights = dropout.weights(weights, dropout_rate, first_query=start)
    return jnp.einsum("bhqs,bhsk->bhqk", weights, v)
