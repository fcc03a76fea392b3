"""Where rows of logits are greatest, and what their exponentials sum to: all of a greedy choice."""

import math

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int

from fugaku_jax.kernels import native


def greatest(
    logits: Float[Array, "*R V"], candidates: Int[Array, ""] | int, columns: int
) -> tuple[Int[Array, "*R"], Float[Array, "*R"]]:
    """Find the greatest of each row and the logarithm of the sum of its exponentials.

    Args:
        logits: fp32; a device has whole rows.
        candidates: how many, of the first, may be the greatest.
        columns: how many there are, at least as many; those behind them only fill the array.

    Returns:
        where each row is greatest first (a NaN is the greatest; 0 if there is no candidate), and
        the logarithms, which turn a row's logits into logarithms of probabilities.
    """

    def local(logits: Array, candidates: Array) -> tuple[Array, Array]:
        if not native.enabled():
            return reference_greatest(logits, candidates, columns)
        *rows, width = logits.shape
        flat = logits.reshape(math.prod(rows), width)
        types = [jax.ShapeDtypeStruct(flat.shape[:1], dtype) for dtype in (jnp.int32, jnp.float32)]
        which, log_sum = native.call("greatest", types, flat, candidates, jnp.int32(columns))
        return which.reshape(rows), log_sum.reshape(rows)

    rows = PartitionSpec(*jax.typeof(logits).sharding.spec[:-1])
    return native.on_each_device(local, (rows, rows), logits, jnp.asarray(candidates, jnp.int32))


def reference_greatest(
    logits: Float[Array, "*R V"], candidates: Int[Array, ""], columns: int
) -> tuple[Int[Array, "*R"], Float[Array, "*R"]]:
    """Do so in `jnp`."""
    token = jnp.arange(logits.shape[-1])
    which = jnp.argmax(jnp.where(token < candidates, logits, -jnp.inf), axis=-1)
    known = jnp.where(token < columns, logits, -jnp.inf)
    return which.astype(jnp.int32), jax.nn.logsumexp(known, axis=-1)
