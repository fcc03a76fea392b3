"""Dropout whose mask depends on the key and the global shape only, not on the mesh."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

_LEVELS = 1 << 16


def dropout(
    x: Float[Array, "*shape"], rate: float, key: Key[Array, ""] | None
) -> Float[Array, "*shape"]:
    """Zero each element with probability `rate` and scale the rest to keep the mean.

    The probability is rounded to a multiple of 1/65,536: sixteen random bits an element are
    enough, and half the price of thirty-two.

    Args:
        key: the mask's key; None keeps everything.

    Source: Srivastava et al., "Dropout", JMLR 15, 2014.
    """
    dropped_levels = round(rate * _LEVELS)
    if key is None or dropped_levels == 0:
        return x
    bits = jax.random.bits(key, x.shape, jnp.uint16, out_sharding=jax.typeof(x).sharding)
    keep = bits >= dropped_levels
    scale = _LEVELS / (_LEVELS - dropped_levels)
    return jnp.where(keep, x * jnp.asarray(scale, x.dtype), jnp.zeros((), x.dtype))
