"""Rotary positions: a head's numbers turn, pair by pair, by angles that grow with the position."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


@functools.partial(jax.checkpoint, static_argnums=2)
def rotate(
    x: Float[Array, "B T H K"], positions: Int[Array, "B T"] | None, theta: float
) -> Float[Array, "B T H K"]:
    """Turn the pair (i, i + K/2) of every head by `position / theta^(2i/K)` radians, in fp32.

    Args:
        x: queries or keys; K is even.
        positions: of each token; 0, 1, 2, ... if not given.
        theta: base of the wavelengths.

    Source: Su et al., "RoFormer", 2021, equation 34, with the pairs as in Hugging Face's LLaMA.
    """
    half = x.shape[-1] // 2
    if positions is None:
        positions = jnp.arange(x.shape[1])[None]
    angle = positions[:, :, None, None] * theta ** (-jnp.arange(half) / half)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    low, high = x[..., :half].astype(jnp.float32), x[..., half:].astype(jnp.float32)
    turned = jnp.concatenate([low * cos - high * sin, high * cos + low * sin], axis=-1)
    return turned.astype(x.dtype)
