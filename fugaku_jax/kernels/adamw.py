"""The update of AdamW, one array at a time."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


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
