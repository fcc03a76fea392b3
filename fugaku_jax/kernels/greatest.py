"""Where rows of logits are greatest, and what their exponentials sum to: all of a greedy choice."""

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int

from fugaku_jax.kernels import native


def greatest(
    logits: Float[Array, "R V"], columns: Int[Array, ""]
) -> tuple[Int[Array, " R"], Float[Array, " R"]]:
    """Find the greatest of each row and the logarithm of the sum of its exponentials.

    Args:
        logits: fp32; a device has whole rows.
        columns: how many there are; those behind them only fill the array.

    Returns:
        where each row is greatest first (a NaN is the greatest), and the logarithms, which turn a
        row's logits into logarithms of probabilities.
    """

    def local(logits: Array, columns: Array) -> tuple[Array, Array]:
        if not native.enabled():
            return reference_greatest(logits, columns)
        rows = logits.shape[:1]
        results = [jax.ShapeDtypeStruct(rows, jnp.int32), jax.ShapeDtypeStruct(rows, jnp.float32)]
        which, log_sum = native.call("greatest", results, logits, columns)
        return which, log_sum

    rows = PartitionSpec(jax.typeof(logits).sharding.spec[0])
    columns = jnp.asarray(columns, jnp.int32)
    return native.on_each_device(local, (rows, rows), logits, columns)


def reference_greatest(
    logits: Float[Array, "R V"], columns: Int[Array, ""]
) -> tuple[Int[Array, " R"], Float[Array, " R"]]:
    """Do so in `jnp`."""
    known = jnp.where(jnp.arange(logits.shape[1]) < columns, logits, -jnp.inf)
    return jnp.argmax(known, axis=-1).astype(jnp.int32), jax.nn.logsumexp(known, axis=-1)
