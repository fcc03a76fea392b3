"""Layer normalisation, and root-mean-square normalisation, which leaves the mean where it is."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

from fugaku_jax.kernels import native
from fugaku_jax.kernels.matmul import axis_names


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
    if _has_kernel(x, scale, bias):
        return _native(x, scale.astype(jnp.float32), bias.astype(jnp.float32), epsilon, True)
    return reference_layer_norm(x, scale, bias, epsilon)


def rms_norm(
    x: Float[Array, "*batch D"], scale: Float[Array, " D"], epsilon: float
) -> Float[Array, "*batch D"]:
    """Divide the last dimension by the root of its mean square, then scale it; as `layer_norm`.

    Source: Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019, equation 4.
    """
    if _has_kernel(x, scale):
        wide = scale.astype(jnp.float32)
        return _native(x, wide, jnp.zeros_like(wide), epsilon, False)
    return reference_rms_norm(x, scale, epsilon)


def _has_kernel(*operands: Array) -> bool:
    """Whether there are kernels, and every row is whole."""
    return native.enabled() and all(jax.typeof(a).sharding.spec[-1] is None for a in operands)


@functools.partial(jax.checkpoint, static_argnums=2)
def reference_rms_norm(
    x: Float[Array, "*batch D"], scale: Float[Array, " D"], epsilon: float
) -> Float[Array, "*batch D"]:
    """Do so in `jnp`, whatever shares the rows."""
    wide = x.astype(jnp.float32)
    inverse = jax.lax.rsqrt(jnp.square(wide).mean(-1, keepdims=True) + epsilon)
    return (wide * inverse * scale).astype(x.dtype)


@functools.partial(jax.checkpoint, static_argnums=3)
def reference_layer_norm(
    x: Float[Array, "*batch D"],
    scale: Float[Array, " D"],
    bias: Float[Array, " D"],
    epsilon: float,
) -> Float[Array, "*batch D"]:
    """Do so in `jnp`, whatever shares the rows."""
    wide = x.astype(jnp.float32)
    centred = wide - wide.mean(-1, keepdims=True)
    variance = jnp.square(centred).mean(-1, keepdims=True)
    normal = centred * jax.lax.rsqrt(variance + epsilon)
    return (normal * scale + bias).astype(x.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _native(x: Array, scale: Array, bias: Array, epsilon: float, centred: bool) -> Array:
    attributes = {"epsilon": np.float32(epsilon), "centred": centred}

    def local(x: Array, scale: Array, bias: Array) -> Array:
        like_x = jax.ShapeDtypeStruct(x.shape, x.dtype)
        (y,) = native.call("layer_norm", [like_x], x, scale, bias, **attributes)
        return y

    return native.on_each_device(local, jax.typeof(x).sharding.spec, x, scale, bias)


def _forward(
    x: Array, scale: Array, bias: Array, epsilon: float, centred: bool
) -> tuple[Array, tuple[Array, Array]]:
    return _native(x, scale, bias, epsilon, centred), (x, scale)


def _backward(
    epsilon: float, centred: bool, kept: tuple[Array, Array], dy: Array
) -> tuple[Array, Array, Array]:
    x, scale = kept
    attributes = {"epsilon": np.float32(epsilon), "centred": centred}
    by_row = jax.typeof(x).sharding.spec
    axes = tuple(axis for entry in by_row for axis in axis_names(entry))

    def local(x: Array, scale: Array, dy: Array) -> tuple[Array, Array, Array]:
        like_x = jax.ShapeDtypeStruct(x.shape, x.dtype)
        like_scale = jax.ShapeDtypeStruct(scale.shape, scale.dtype)
        dx, d_scale, d_bias = native.call(
            "layer_norm_backward",
            [like_x, like_scale, like_scale],
            x,
            scale,
            dy,
            **attributes,
        )
        # The devices have different rows.
        d_scale, d_bias = jax.lax.psum((d_scale, d_bias), axes) if axes else (d_scale, d_bias)
        return dx, d_scale, d_bias

    whole = PartitionSpec(None)
    return native.on_each_device(local, (by_row, whole, whole), x, scale, dy)


_native.defvjp(_forward, _backward)
