"""Attention, wherever the positions of a sequence are."""

from jaxtyping import Array, Float, Int

from fugaku_jax.kernels.attention import packed_attention
from fugaku_jax.kernels.dropout import Dropout
from fugaku_jax.sharding.ring_attention import ring_attention
from fugaku_jax.sharding.rules import get_rules


def attend(
    qkv: Float[Array, "B T_own 3 H K"],
    segment_ids: Int[Array, "B T"] | None,
    dropout: Dropout | None,
    dropout_rate: float,
) -> Float[Array, "B T_own H K"]:
    """Let every position attend to itself and to all before it.

    Args:
        qkv: queries, keys and values.
        segment_ids: of the whole sequence; if given, a position sees only its own number.
        dropout: draws the masks of the weights; None keeps them all.
        dropout_rate: probability of dropping a weight.
    """
    axes = get_rules().context
    if axes:
        q, k, v = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
        return ring_attention(q, k, v, axes, segment_ids, dropout, dropout_rate)
    return packed_attention(qkv, segment_ids, dropout, dropout_rate)
