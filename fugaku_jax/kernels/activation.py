"""The activation of the feed-forward layer."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fugaku_jax.kernels import native


def gelu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Return `0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))`, GELU as GPT-2 approximates it.

    Source: Hendrycks and Gimpel, "Gaussian Error Linear Units", 2016, section 2.
    """
    return _native(x) if native.enabled() else reference_gelu(x)


def gelu_backward(x: Float[Array, "*shape"], dy: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Return `dy` times the derivative of `gelu` at `x`."""
    if native.enabled():
        return _call("gelu_backward", x, dy)
    return jax.vjp(reference_gelu, x)[1](dy)[0]


def swiglu(x: Float[Array, "*shape 2 F"]) -> Float[Array, "*shape F"]:
    """Return `silu(gate) value` of `gate, value = x`, with `silu(a) = a / (1 + e^-a)`, in fp32.

    Source: Shazeer, "GLU Variants Improve Transformer", 2020, equation 6.
    """
    gate, value = x[..., 0, :].astype(jnp.float32), x[..., 1, :].astype(jnp.float32)
    return (jax.nn.silu(gate) * value).astype(x.dtype)


def reference_gelu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Do so in `jnp`."""
    return jax.nn.gelu(x, approximate=True)


@jax.custom_vjp
def _native(x: Array) -> Array:
    return _call("gelu", x)


def _forward(x: Array) -> tuple[Array, Array]:
    return _native(x), x


def _backward(x: Array, dy: Array) -> tuple[Array]:
    return (_call("gelu_backward", x, dy),)


_native.defvjp(_forward, _backward)


def _call(function: str, x: Array, *others: Array) -> Array:
    """Call a kernel that works element by element."""

    def local(x: Array, *others: Array) -> Array:
        (result,) = native.call(function, [jax.ShapeDtypeStruct(x.shape, x.dtype)], x, *others)
        return result

    return native.on_each_device(local, jax.typeof(x).sharding.spec, x, *others)
