"""Attention, wherever the positions of a sequence are."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from fugaku_jax.kernels.attention import attention, one_for_each_query, packed_attention
from fugaku_jax.kernels.dropout import Dropout
from fugaku_jax.parallel.ring_attention import ring_attention


def attend(
    operands: tuple[Float[Array, "B T_own ..."], ...],
    segment_ids: Int[Array, "B T"] | None,
    dropout: Dropout | None,
    dropout_rate: float,
    axes: tuple[str, ...] = (),
    length: int | None = None,
) -> Float[Array, "B T_own H K"]:
    """Let every position attend to itself and to all before it.

    Args:
        operands: queries, keys and values, `[B, T, H, K]` and twice `[B, T, G, K]`, G dividing H;
            or one array of all three, `[B, T, 3, H, K]`.
        segment_ids: of the whole sequence; if given, a position sees only its own number.
        dropout: draws the masks of the weights; None keeps them all.
        dropout_rate: probability of dropping a weight.
        axes: manual mesh axes that share the sequence.
        length: of the whole sequence (T). A device's positions beyond its part of that are there
            to be shared by tensor devices, and of those that have the sequence none sees them.
    """
    if len(operands) == 1 and not axes:
        return packed_attention(operands[0], segment_ids, dropout, dropout_rate)
    q, k, v = operands if len(operands) == 3 else jnp.unstack(operands[0], axis=2)
    if not axes:
        return attention(q, k, v, segment_ids, dropout, dropout_rate)
    k, v = (one_for_each_query(x, q) for x in (k, v))  # the ring knows no shared heads
    own = q.shape[1] if length is None else length // jax.lax.axis_size(axes)
    q, k, v, fill = q[:, :own], k[:, :own], v[:, :own], q.shape[1] - own
    mixed = ring_attention(q, k, v, axes, segment_ids, dropout, dropout_rate)
    return jnp.pad(mixed, ((0, 0), (0, fill), (0, 0), (0, 0)))
