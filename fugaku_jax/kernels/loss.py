"""Cross-entropy fused with the logits product, a chunk of positions at a time.

The logits of a whole batch, `[B, T, V]`, would be the largest array of the step by far. Here a
chunk of positions gets its logits, its loss and, when gradients are asked for, its gradients at
once; only the gradients of the hidden states and of the embedding outlive the chunk. The backward
pass then has nothing to recompute.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from fugaku_jax.kernels import native
from fugaku_jax.kernels.matmul import axis_names, einsum

CHUNK_BYTES = 1 << 27
"""Most bytes of fp32 logits a chunk may take on a device: about what a shared cache holds."""


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def cross_entropy(
    hidden: Float[Array, "B T D"],
    embedding: Float[Array, "V D"],
    targets: Int[Array, "B T"],
    weights: Float[Array, "B T"],
    vocab_size: int,
    z_loss: float = 0.0,
) -> tuple[Float[Array, ""], Float[Array, "B T"]]:
    """Return the cross-entropy, in nats, of `softmax(hidden @ embedding.T)` and `targets`.

    Rows of the embedding from `vocab_size` on are padding: they have no probability.

    Args:
        hidden: states after the last normalisation; their type is that of the product.
        embedding: the tied output matrix, in fp32 (converted a chunk at a time).
        weights: what each position counts; 0 leaves it out.
        z_loss: weight of `log(Z)^2`, which keeps the partition function Z near 1
            (Chowdhery et al., "PaLM", 2022, section 5).

    Returns:
        the weighted sum, and the loss of each position before it is weighted. Only the sum is
        differentiated; for another function of the losses, its derivatives are the weights.
    """
    chunks = _split(hidden, embedding, targets, weights)

    def add_chunk(total: Array, chunk: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        h, t, w = chunk
        loss, losses, _ = _chunk_loss(_logits(h, embedding), t, w, vocab_size, z_loss, h.dtype)
        return total + loss, losses

    total, losses = jax.lax.scan(add_chunk, jnp.zeros((), jnp.float32), chunks)
    return total, _joined(losses, targets)


def _forward(
    hidden: Array, embedding: Array, targets: Array, weights: Array, vocab_size: int, z_loss: float
) -> tuple[tuple[Array, Array], tuple[Array, Array, Array]]:
    def add_chunk(
        carry: tuple[Array, Array], chunk: tuple[Array, Array, Array]
    ) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        total, d_embedding = carry
        h, t, w = chunk
        loss, losses, d_logits = _chunk_loss(
            _logits(h, embedding), t, w, vocab_size, z_loss, h.dtype
        )
        d_h = einsum("btv,vd->btd", d_logits, embedding, jax.typeof(h).sharding.spec, jnp.float32)
        where = jax.typeof(embedding).sharding.spec
        d_embedding = einsum("btv,btd->vd", d_logits, h, where, into=d_embedding)
        return (total + loss, d_embedding), (losses, d_h)

    start = (jnp.zeros((), jnp.float32), jnp.zeros_like(embedding, jnp.float32))
    chunks = _split(hidden, embedding, targets, weights)
    (total, d_embedding), (losses, d_hidden) = jax.lax.scan(add_chunk, start, chunks)
    kept = _joined(d_hidden, hidden), d_embedding, jnp.zeros((), hidden.dtype)
    return (total, _joined(losses, targets)), kept


def _backward(
    vocab_size: int,
    z_loss: float,
    kept: tuple[Array, Array, Array],
    cotangents: tuple[Array, Array],
) -> tuple[Array, Array, None, None]:
    del vocab_size, z_loss
    d_hidden, d_embedding, like_hidden = kept
    cotangent, _ = cotangents
    # A loss scale is in the cotangent, so the product must come before the narrow type.
    d_hidden = (d_hidden * cotangent).astype(like_hidden.dtype)
    return d_hidden, d_embedding * cotangent, None, None


cross_entropy.defvjp(_forward, _backward)


def _split(
    hidden: Array, embedding: Array, targets: Array, weights: Array
) -> tuple[Array, Array, Array]:
    """Cut the time axis into chunks small enough, as leading axis: [chunks, B, C, ...]."""
    batch, length = targets.shape
    fitting = max(1, CHUNK_BYTES // max(1, 4 * _local_rows(embedding) * _local_rows(targets)))
    sizes = (size for size in range(1, length + 1) if length % size == 0 and size <= fitting)
    chunk = max(sizes, default=1)

    def cut(x: Array) -> Array:
        # The sharding is said, since a batch of 1 would lose it in the reshape.
        rows, columns, *rest = jax.typeof(x).sharding.spec
        shape = (batch, length // chunk, chunk, *x.shape[2:])
        sharding = PartitionSpec(rows, None, columns, *rest)
        return jnp.moveaxis(jnp.reshape(x, shape, out_sharding=sharding), 1, 0)

    return cut(hidden), cut(targets), cut(weights)


def _joined(chunks: Float[Array, "N B C ..."], like: Array) -> Array:
    """Undo `_split`: chunks of positions become an array of `like`'s shape and sharding."""
    whole = jnp.moveaxis(chunks, 0, 1)
    return jnp.reshape(whole, like.shape, out_sharding=jax.typeof(like).sharding)


def _local_rows(x: Array) -> int:
    """Return how much of the leading dimension a device holds."""
    sharding = jax.typeof(x).sharding
    axes = sharding.spec[0] or ()
    axes = (axes,) if isinstance(axes, str) else axes
    return x.shape[0] // math.prod(sharding.mesh.shape[axis] for axis in axes)


def _logits(hidden: Float[Array, "B C D"], embedding: Array) -> Float[Array, "B C V"]:
    by_position = jax.typeof(hidden).sharding.spec
    where = PartitionSpec(by_position[0], by_position[1], jax.typeof(embedding).sharding.spec[0])
    return einsum("btd,vd->btv", hidden, embedding, where, jnp.float32)


def _chunk_loss(
    logits: Float[Array, "B C V"],
    targets: Array,
    weights: Array,
    vocab_size: int,
    z_loss: float,
    dtype: DTypeLike,
) -> tuple[Array, Array, Array]:
    """Return a chunk's summed loss, its losses `[B, C]` and the gradient of its logits, in a type.

    If nobody wants the gradient, XLA leaves its call out.
    """
    if not native.enabled():
        found = reference_chunk_loss(logits, targets, weights, vocab_size, z_loss)
        return *found[:2], found[2].astype(dtype)
    by_row, by_column, by_vocabulary = jax.typeof(logits).sharding.spec
    row_axes, vocabulary = axis_names(by_row) + axis_names(by_column), axis_names(by_vocabulary)

    def local(logits: Array, targets: Array, weights: Array) -> tuple[Array, Array, Array]:
        *rows, columns = logits.shape
        count = math.prod(rows)
        # The number of the first column here, and what it leaves of the vocabulary.
        first = jax.lax.axis_index(vocabulary) * columns if vocabulary else jnp.int32(0)
        here = targets.reshape(count) - first
        number = jax.ShapeDtypeStruct((count,), jnp.float32)
        exponentials, maximum, total, at_target = native.call(
            "softmax",
            [jax.ShapeDtypeStruct(logits.shape, jnp.float32), number, number, number],
            logits,
            here,
            vocab_size - first,
            aliases={0: 0},
        )
        weight, highest = weights.reshape(count), maximum
        if vocabulary:
            highest = jax.lax.pmax(maximum, vocabulary)
            total = jax.lax.psum(total * jnp.exp(maximum - highest), vocabulary)
            at_target = jax.lax.psum(at_target, vocabulary)
        log_z = jnp.log(total) + highest
        losses = log_z - at_target + z_loss * jnp.square(log_z)
        loss = (weight * losses).sum()
        for axis in row_axes:  # a group of all replicas would be large
            loss = jax.lax.psum(loss, axis)
        scale = weight * (1 + 2 * z_loss * log_z) * jnp.exp(maximum - log_z)
        [d_logits] = native.call(
            "softmax_gradient",
            [jax.ShapeDtypeStruct(logits.shape, dtype)],
            exponentials,
            scale,
            here,
            weight,
            aliases={0: 0} if dtype == jnp.float32 else {},
        )
        return loss, losses.reshape(rows), d_logits

    results = PartitionSpec(), PartitionSpec(by_row, by_column), jax.typeof(logits).sharding.spec
    return native.on_each_device(local, results, logits, targets, weights)


def reference_chunk_loss(
    logits: Float[Array, "B C V"],
    targets: Int[Array, "B C"],
    weights: Float[Array, "B C"],
    vocab_size: int,
    z_loss: float,
) -> tuple[Float[Array, ""], Float[Array, "B C"], Float[Array, "B C V"]]:
    """Return a chunk's loss, its losses and the gradient of its logits in fp32; the native twin."""
    sharding = jax.typeof(logits).sharding.spec
    token = jax.lax.broadcasted_iota(jnp.int32, logits.shape, 2, out_sharding=sharding)
    logits = jnp.where(token < vocab_size, logits, -jnp.inf)
    log_z = jax.nn.logsumexp(logits, axis=-1)
    is_target = token == targets[..., None]
    target_logit = jnp.where(is_target, logits, 0).sum(-1)
    losses = log_z - target_logit + z_loss * jnp.square(log_z)
    probability = jnp.exp(logits - log_z[..., None])
    d_logits = probability * (1 + 2 * z_loss * log_z)[..., None] - is_target
    return (weights * losses).sum(), losses, d_logits * weights[..., None]
