"""Layer normalisation."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@functools.partial(jax.checkpoint, static_argnums=3)
def layer_norm(
    x: Float[Array, "*batch D"],
    scale: Float[Array, " D"],
    bias: Float[Array, " D"],
    epsilon: float,
) -> Float[Array, "*batch D"]:
    """Normalise the last dimension to mean 0 and variance 1, then scale and shift it.

    Statistics are taken in fp32 whatever `x` is; the result has the type of `x`.
    The backward pass keeps `x` alone.
    Source: Ba, Kiros and Hinton, "Layer Normalization", 2016, equation 4.
    """
    wide = x.astype(jnp.float32)
    centred = wide - wide.mean(-1, keepdims=True)
    variance = jnp.square(centred).mean(-1, keepdims=True)
    normal = centred * jax.lax.rsqrt(variance + epsilon)
    return (normal * scale + bias).astype(x.dtype)
