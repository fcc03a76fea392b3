"""Attention of each row's newest position to all of its row, whose keys and values are kept."""

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
    keys: Float[Array, "L B S G K"],
    values: Float[Array, "L B S G K"],
    layer: Int[Array, ""],
    positions: Int[Array, " B"],
) -> tuple[Float[Array, "B H K"], Float[Array, "L B S G K"], Float[Array, "L B S G K"]]:
    """Write the new key and value to their place, and attend to all up to there.

    Scores and softmax are fp32.

    Args:
        q: queries; H / G neighbours share a head of keys and values.
        k: the new keys.
        v: the new values.
        keys: of all layers, updated where they lie if nobody else wants them.
        values: likewise.
        layer: of which layer these are.
        positions: of each row's new token; what lies behind it is not looked at.

    Returns:
        what the queries found, and all keys and values.
    """
    if q.dtype not in native.DTYPES or not native.enabled():
        return reference_cached_attention(q, k, v, keys, values, layer, positions)

    def local(*operands: Array) -> tuple[Array, ...]:
        q, keys = operands[0], operands[3]
        results = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (q, keys, keys)]
        return tuple(native.call("cached_attention", results, *operands, aliases={3: 1, 4: 2}))

    kept = jax.typeof(keys).sharding.spec
    rows, heads = kept[1], kept[3]
    specs = PartitionSpec(rows, heads, None), kept, kept
    numbers = layer.astype(jnp.int32), positions.astype(jnp.int32)
    return native.on_each_device(local, specs, q, k, v, keys, values, *numbers)


def reference_cached_attention(
    q: Float[Array, "B H K"],
    k: Float[Array, "B G K"],
    v: Float[Array, "B G K"],
    keys: Float[Array, "L B S G K"],
    values: Float[Array, "L B S G K"],
    layer: Int[Array, ""],
    positions: Int[Array, " B"],
) -> tuple[Float[Array, "B H K"], Float[Array, "L B S G K"], Float[Array, "L B S G K"]]:
    """Do so in `jnp`."""
    here = jnp.arange(keys.shape[2]) == positions[:, None]
    seen = jnp.arange(keys.shape[2]) <= positions[:, None]

    def write(kept: Array, new: Array) -> tuple[Array, Array]:
        mine = jax.lax.dynamic_index_in_dim(kept, layer, keepdims=False)
        mine = jnp.where(here[:, :, None, None], new[:, None].astype(kept.dtype), mine)
        return mine, jax.lax.dynamic_update_index_in_dim(kept, mine, layer, 0)

    (k, keys), (v, values) = write(keys, k), write(values, v)
    groups = k.shape[2]
    grouped = jax.lax.reshape(
        q,
        (len(q), groups, q.shape[1] // groups, q.shape[2]),
        out_sharding=PartitionSpec(*jax.typeof(q).sharding.spec[:2], None, None),
    )
    scores = jnp.einsum("bghk,bsgk->bghs", grouped, k, preferred_element_type=jnp.float32)
    scores = jnp.where(seen[:, None, None], scores / math.sqrt(q.shape[-1]), -jnp.inf)
    weights = jax.nn.softmax(scores)
    mixed = jnp.einsum("bghs,bsgk->bghk", weights, v.astype(jnp.float32))
    return mixed.reshape(q.shape).astype(q.dtype), keys, values
