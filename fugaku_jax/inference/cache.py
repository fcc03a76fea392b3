"""Keys and values of the positions that a model has seen, and the passes that fill and use them.

Rows of different length are padded on the right: position 0 is every row's first token, and what
lies behind a row's end is never looked at before it is overwritten.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from fugaku_jax.inference.weights import Stacked
from fugaku_jax.kernels.cached_attention import cached_attention
from fugaku_jax.models.gpt import GPT, Inputs, Operands
from fugaku_jax.parallel.attention import attend
from fugaku_jax.pipeline.buffers import read


class Cache(NamedTuple):
    """Keys and values of all layers, rows and positions; shared by devices as in training."""

    keys: Float[Array, "L B S G K"]
    values: Float[Array, "L B S G K"]


CacheUse = Callable[[Operands, Int[Array, ""], Cache], tuple[Float[Array, "B T H K"], Cache]]
"""What attention of a layer of this number finds, given the cache, and the cache after it."""


def empty_cache(model: GPT, rows: int, positions: int, dtype: DTypeLike) -> Cache:
    """Return a cache without content for so many rows of so many positions."""
    config = model.config
    shape = (config.n_layers, rows, positions, config.kv_heads, config.head_dim)
    cut = model.rules.spec("layers", "batch", None, "heads", None)
    return Cache(*(jnp.zeros(shape, dtype, out_sharding=cut) for _ in range(2)))


def prefill(
    model: GPT, tokens: Int[Array, "B T"], lengths: Int[Array, " B"], cache: Cache
) -> tuple[Float[Array, "B V"], Cache]:
    """Run prompts, at once.

    Args:
        model: as `laid_out` makes it.
        tokens: padded on the right.
        lengths: of the prompts, at least 1.
        cache: for at least T positions; T of each row are overwritten.

    Returns:
        fp32 logits of what follows each prompt, and the cache.
    """

    def all_positions(operands: Operands, layer: Array, cache: Cache) -> tuple[Array, Cache]:
        _, k, v = unpacked(operands)

        def write(kept: Array, new: Array) -> Array:
            return jax.lax.dynamic_update_slice(kept, new[None], (layer, 0, 0, 0, 0))

        kept = Cache(write(cache.keys, k), write(cache.values, v))
        return attend(operands, None, None, 0.0), kept

    x, cache = through_blocks(model, Inputs(tokens), cache, all_positions)
    is_last = jnp.arange(tokens.shape[1]) == (lengths - 1)[:, None]
    x = jnp.where(is_last[:, :, None], x, 0).sum(1, keepdims=True)
    return model.logits(model.norm(x))[:, 0], cache


def decode(
    model: GPT, tokens: Int[Array, " B"], positions: Int[Array, " B"], cache: Cache
) -> tuple[Float[Array, "B V"], Cache]:
    """Run one token of each row.

    Args:
        model: as `laid_out` makes it.
        tokens: the newest of each row.
        positions: where in its row each of them is.
        cache: of all before them.

    Returns:
        fp32 logits of what follows, and the cache with the tokens in it.
    """

    def newest(operands: Operands, layer: Array, cache: Cache) -> tuple[Array, Cache]:
        q, k, v = (x[:, 0] for x in unpacked(operands))
        mixed, keys, values = cached_attention(q, k, v, cache.keys, cache.values, layer, positions)
        return mixed[:, None], Cache(keys, values)

    inputs = Inputs(tokens[:, None], positions[:, None])
    x, cache = through_blocks(model, inputs, cache, newest)
    return model.logits(model.norm(x))[:, 0], cache


def through_blocks(
    model: GPT, inputs: Inputs, cache: Cache, use: CacheUse
) -> tuple[Float[Array, "B T D"], Cache]:
    """Return the stream after the last block; `use` is the attention of every layer."""
    structure, whole, layered = nnx.split(model.blocks, Stacked, ...)

    def one(layer: Array, carry: tuple[Array, Cache]) -> tuple[Array, Cache]:
        x, cache = carry
        block = nnx.merge(structure, whole, read(layered, layer))
        return block(x, inputs.positions, lambda operands: use(operands, layer, cache))

    start = model.embed(inputs, cache.keys.dtype), cache
    return jax.lax.fori_loop(0, model.config.n_layers, one, start)


def unpacked(operands: Operands) -> Operands:
    """Return queries, keys and values one by one."""
    return operands if len(operands) == 3 else jnp.unstack(operands[0], axis=2)
