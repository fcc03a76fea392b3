"""The update of AdamW, one array at a time, and the sum by which its gradients are clipped."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from fugaku_jax.kernels import native
from fugaku_jax.kernels.matmul import axis_names


def adamw(
    parameter: Float[Array, "*shape"],
    mean: Float[Array, "*shape"],
    square: Float[Array, "*shape"],
    gradient: Float[Array, "*shape"],
    *,
    factor: Float[Array, ""],
    apply: Bool[Array, ""],
    count: Int[Array, ""],
    learning_rate: Float[Array, ""],
    weight_decay: float,
    beta1: float,
    beta2: float,
    epsilon: float,
) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"], Float[Array, "*shape"]]:
    """Return the new parameter and its new moments; all three can be updated in place.

    Args:
        mean: running mean of the gradient.
        square: running mean of the squared gradient.
        factor: what the gradient is multiplied by first: clipping, and the loss scale taken out.
        apply: if false, nothing changes.
        count: updates applied so far, this one included; for the correction of the start.
        weight_decay: decoupled decay, multiplied by the learning rate.

    Source: Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2017, algorithm 2.
    """
    if native.enabled():
        constants = (weight_decay, beta1, beta2, epsilon)
        arrays, scalars = (parameter, mean, square, gradient), (factor, apply, count, learning_rate)
        return _native(arrays, scalars, constants)
    gradient = gradient * factor
    mean = jnp.where(apply, beta1 * mean + (1 - beta1) * gradient, mean)
    square = jnp.where(apply, beta2 * square + (1 - beta2) * jnp.square(gradient), square)
    # Without this, XLA fuses the moments into the parameter's update, reads the old ones twice
    # and so has to copy them.
    mean, square = jax.lax.optimization_barrier((mean, square))
    steps = count.astype(jnp.float32)
    root = jnp.sqrt(square / (1 - beta2**steps)) + epsilon
    direction = mean / (1 - beta1**steps) / root + weight_decay * parameter
    return jnp.where(apply, parameter - learning_rate * direction, parameter), mean, square


def _native(
    arrays: tuple[Array, ...], scalars: tuple[Array, ...], constants: tuple[float, ...]
) -> tuple[Array, Array, Array]:
    names = ("weight_decay", "beta1", "beta2", "epsilon")
    attributes = {name: np.float64(x) for name, x in zip(names, constants, strict=True)}
    factor, apply, count, learning_rate = scalars

    def local(*operands: Array) -> tuple[Array, ...]:
        state = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in operands[:3]]
        aliases = {0: 0, 1: 1, 2: 2}
        return tuple(native.call("adamw", state, *operands, aliases=aliases, **attributes))

    spec = jax.typeof(arrays[0]).sharding.spec
    return native.on_each_device(
        local,
        (spec, spec, spec),
        *arrays,
        factor.astype(jnp.float32),
        apply,
        count.astype(jnp.int32),
        learning_rate.astype(jnp.float32),
    )


def sum_of_squares(x: Float[Array, "*shape"]) -> Float[Array, ""]:
    """Sum the squares of all elements, in fp32."""
    if not native.enabled():
        return jnp.square(x.astype(jnp.float32)).sum()
    axes = tuple(axis for entry in jax.typeof(x).sharding.spec for axis in axis_names(entry))

    def local(x: Array) -> Array:
        (total,) = native.call("sum_of_squares", [jax.ShapeDtypeStruct((), jnp.float32)], x)
        return jax.lax.psum(total, axes) if axes else total

    return native.on_each_device(local, PartitionSpec(), x)
