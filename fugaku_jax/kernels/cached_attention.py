"""Attention of tokens to all before them in their rows, whose keys and values are kept in blocks.

A row's positions lie in blocks of equal size, which its table names in order; rows may have blocks
in common, and those which begin with the same blocks attend to them in one product.
Sources: Kwon et al., "Efficient Memory Management for LLM Serving with PagedAttention", 2023;
Juravsky et al., "Hydragen: High-Throughput LLM Inference with Shared Prefixes", 2024.
"""

import math

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int

from fugaku_jax.kernels import native


def cached_attention(
    q: Float[Array, "B H K"],
    k: Float[Array, "B G K"],
    v: Float[Array, "B G K"],
    keys: Float[Array, "L N G K S"],
    values: Float[Array, "L N G S K"],
    layer: Int[Array, ""],
    positions: Int[Array, " B"],
    tables: Int[Array, "B M"],
    copies: Int[Array, "C 2"],
) -> tuple[Float[Array, "B H K"], Float[Array, "L N G K S"], Float[Array, "L N G S K"]]:
    """Copy blocks, write new keys and values to their places, and attend to all up to there.

    Scores and softmax are fp32.

    Args:
        q: queries, one a token; H / G neighbours share a head of keys and values.
        k: the new keys.
        v: the new values.
        keys: of all layers, in N blocks of S, where those of a head lie number by number; updated
            where they lie if nobody else wants them.
        values: likewise, those of a head position by position.
        layer: of which layer these are.
        positions: of each token in its row; what lies behind it is not looked at. Several may be of
            one row.
        tables: the blocks of each token's row.
        copies: blocks that are copied first, and where to; none is a target before it is a source.

    Returns:
        what the queries found, and all keys and values.
    """

    def local(*operands: Array) -> tuple[Array, ...]:
        q, keys, values = operands[0], operands[3], operands[4]
        if q.dtype not in native.DTYPES or not native.enabled():
            return reference_cached_attention(*operands)
        results = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (q, keys, values)]
        return tuple(native.call("cached_attention", results, *operands, aliases={3: 1, 4: 2}))

    kept = jax.typeof(keys).sharding.spec
    specs = PartitionSpec(None, kept[2], None), kept, kept
    numbers = (x.astype(jnp.int32) for x in (layer, positions, tables, copies))
    return native.on_each_device(local, specs, q, k, v, keys, values, *numbers)


def reference_cached_attention(
    q: Float[Array, "B H K"],
    k: Float[Array, "B G K"],
    v: Float[Array, "B G K"],
    keys: Float[Array, "L N G K S"],
    values: Float[Array, "L N G S K"],
    layer: Int[Array, ""],
    positions: Int[Array, " B"],
    tables: Int[Array, "B M"],
    copies: Int[Array, "C 2"],
) -> tuple[Float[Array, "B H K"], Float[Array, "L N G K S"], Float[Array, "L N G S K"]]:
    """Do so in `jnp`, on one device."""
    sources, targets = copies[:, 0], copies[:, 1]
    keys, values = (x.at[layer, targets].set(x[layer, sources]) for x in (keys, values))
    size = keys.shape[4]
    block = jnp.take_along_axis(tables, positions[:, None] // size, 1)[:, 0]
    keys = keys.at[layer, block, :, :, positions % size].set(k)
    values = values.at[layer, block, :, positions % size].set(v)
    k = jnp.einsum("bngks->bnsgk", keys[layer, tables])
    v = jnp.einsum("bngsk->bnsgk", values[layer, tables])
    k, v = (x.reshape(len(q), -1, *x.shape[3:]) for x in (k, v))
    seen = jnp.arange(k.shape[1]) <= positions[:, None]
    grouped = q.reshape(len(q), k.shape[2], -1, q.shape[2])
    scores = jnp.einsum("bghk,bsgk->bghs", grouped, k, preferred_element_type=jnp.float32)
    scores = jnp.where(seen[:, None, None], scores / math.sqrt(q.shape[-1]), -jnp.inf)
    v = jnp.where(seen[:, :, None, None], v, 0).astype(jnp.float32)
    mixed = jnp.einsum("bghs,bsgk->bghk", jax.nn.softmax(scores), v)
    return mixed.reshape(q.shape).astype(q.dtype), keys, values
