"""The activation of the feed-forward layer."""

import jax
from jaxtyping import Array, Float


def gelu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Return `0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))`, GELU as GPT-2 approximates it.

    Source: Hendrycks and Gimpel, "Gaussian Error Linear Units", 2016, section 2.
    """
    return jax.nn.gelu(x, approximate=True)
