"""Keys and values of the positions that a model has seen, and a pass that fills and uses them."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from fugaku_jax.inference.weights import Stacked
from fugaku_jax.kernels.cached_attention import cached_attention
from fugaku_jax.models.gpt import GPT, Inputs, Operands
from fugaku_jax.pipeline.buffers import read


class Cache(NamedTuple):
    """Keys and values of all layers, in N blocks of S positions; heads are shared by devices as in
    training.
    """

    keys: Float[Array, "L N G K S"]
    values: Float[Array, "L N G S K"]


def empty_cache(model: GPT, blocks: int, size: int, dtype: DTypeLike) -> Cache:
    """Return a cache without content, of so many blocks of so many positions."""
    config = model.config
    heads = config.n_layers, blocks, config.kv_heads
    cut = model.rules.spec("layers", None, "heads", None, None)
    shapes = (*heads, config.head_dim, size), (*heads, size, config.head_dim)
    return Cache(*(jnp.zeros(shape, dtype, out_sharding=cut) for shape in shapes))


def through_blocks(
    model: GPT,
    tokens: Int[Array, " N"],
    positions: Int[Array, " N"],
    tables: Int[Array, "N M"],
    copies: Int[Array, "C 2"],
    cache: Cache,
) -> tuple[Float[Array, "N 1 D"], Cache]:
    """Run tokens, each of which attends to what its row has up to there.

    Args:
        model: as `laid_out` makes it.
        tokens: of any rows.
        positions: where in its row each of them is.
        tables: the blocks of each one's row.
        copies: blocks that are copied before, and where to.
        cache: of all before them in their rows.

    Returns:
        the stream after the last block, and the cache with the tokens in it.
    """
    structure, whole, layered = nnx.split(model.blocks, Stacked, ...)
    inputs = Inputs(tokens[:, None], positions[:, None])

    def one(layer: Array, carry: tuple[Array, Cache]) -> tuple[Array, Cache]:
        x, cache = carry

        def attend(operands: Operands) -> tuple[Array, Cache]:
            q, k, v = (x[:, 0] for x in _unpacked(operands))
            where = layer, positions, tables, copies
            mixed, keys, values = cached_attention(q, k, v, *cache, *where)
            return mixed[:, None], Cache(keys, values)

        block = nnx.merge(structure, whole, read(layered, layer))
        return block(x, inputs.positions, attend)

    start = model.embed(inputs, cache.keys.dtype), cache
    return jax.lax.fori_loop(0, model.config.n_layers, one, start)


def _unpacked(operands: Operands) -> Operands:
    """Return queries, keys and values one by one."""
    return operands if len(operands) == 3 else jnp.unstack(operands[0], axis=2)
