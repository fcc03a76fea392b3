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
from fugaku_jax.models.gpt import GPT, Block
from fugaku_jax.parallel.attention import attend
from fugaku_jax.pipeline.buffers import read


class Cache(NamedTuple):
    """Keys and values of all layers, rows and positions; shared by devices as in training."""

    keys: Float[Array, "L B S G K"]
    values: Float[Array, "L B S G K"]


_Attend = Callable[[tuple[Array, ...], Array, Cache], tuple[Array, Cache]]
"""Maps a block's operands, its number and the cache to what attention finds, and the cache."""


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

    def all_positions(
        operands: tuple[Array, ...], layer: Array, cache: Cache
    ) -> tuple[Array, Cache]:
        _, k, v = _three(operands)

        def write(kept: Array, new: Array) -> Array:
            return jax.lax.dynamic_update_slice(kept, new[None], (layer, 0, 0, 0, 0))

        kept = Cache(write(cache.keys, k), write(cache.values, v))
        return attend(operands, None, None, 0.0), kept

    x = model.embed(tokens, None, None, cache.keys.dtype)
    x, cache = _through_blocks(model.blocks, x, None, cache, all_positions)
    is_last = jnp.arange(tokens.shape[1]) == (lengths - 1)[:, None]
    x = jnp.where(is_last[:, :, None], x, 0).sum(1, keepdims=True)
    return _logits(model, x), cache


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

    def newest(operands: tuple[Array, ...], layer: Array, cache: Cache) -> tuple[Array, Cache]:
        q, k, v = (x[:, 0] for x in _three(operands))
        mixed, keys, values = cached_attention(q, k, v, cache.keys, cache.values, layer, positions)
        return mixed[:, None], Cache(keys, values)

    x = model.embed(tokens[:, None], positions[:, None], None, cache.keys.dtype)
    x, cache = _through_blocks(model.blocks, x, positions[:, None], cache, newest)
    return _logits(model, x), cache


def _through_blocks(
    blocks: Block, x: Array, positions: Array | None, cache: Cache, attend: _Attend
) -> tuple[Array, Cache]:
    structure, whole, layered = nnx.split(blocks, Stacked, ...)

    def one(layer: Array, carry: tuple[Array, Cache]) -> tuple[Array, Cache]:
        x, cache = carry
        block = nnx.merge(structure, whole, read(layered, layer))
        mixed, cache = attend(block.operands(x, positions), layer, cache)
        return block.rest(x, mixed), cache

    return jax.lax.fori_loop(0, blocks.config.n_layers, one, (x, cache))


def _logits(model: GPT, x: Float[Array, "B 1 D"]) -> Float[Array, "B V"]:
    # `output` is the product that `laid_out` has put there.
    return model.without_padding(model.output(model.whole(model.norm(x))))[:, 0]


def _three(operands: tuple[Array, ...]) -> tuple[Array, ...]:
    return operands if len(operands) == 3 else jnp.unstack(operands[0], axis=2)
