"""AdamW over all parameters, and its learning rates."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from fugaku_jax.config import Config, OptimizerConfig
from fugaku_jax.kernels.adamw import adamw


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Moments:
    """What AdamW remembers."""

    mean: PyTree[Array]
    """Running mean of the gradient, shaped as the parameters."""
    square: PyTree[Array]
    """Running mean of the squared gradient."""
    count: Int[Array, ""]
    """Updates applied."""


def init_moments(parameters: PyTree[Array]) -> Moments:
    """Return the moments before the first update: zeros, sharded as the parameters."""
    zeros = jax.tree.map(jnp.zeros_like, parameters)
    return Moments(zeros, jax.tree.map(jnp.zeros_like, parameters), jnp.int32(0))


def update(
    config: OptimizerConfig,
    parameters: PyTree[Array],
    moments: Moments,
    gradients: PyTree[Array],
    factor: Float[Array, ""],
    apply: Bool[Array, ""],
    learning_rate: Float[Array, ""],
) -> tuple[PyTree[Array], Moments]:
    """Update all parameters by AdamW; matrices and tables decay, biases and norms do not.

    Args:
        gradients: shaped as the parameters.
        factor: what every gradient is multiplied by first.
        apply: if false, parameters and moments stay as they are.
        learning_rate: rate of this step.

    Returns:
        the new parameters and moments.
    """
    count = moments.count + apply.astype(jnp.int32)

    def one(path: tuple, *arrays: Array) -> tuple[Array, Array, Array]:
        return adamw(
            *arrays,
            factor=factor,
            apply=apply,
            count=count,
            learning_rate=learning_rate,
            weight_decay=config.weight_decay if decays(path) else 0.0,
            beta1=config.beta1,
            beta2=config.beta2,
            epsilon=config.epsilon,
        )

    updated = jax.tree_util.tree_map_with_path(
        one, parameters, moments.mean, moments.square, gradients
    )
    outer = jax.tree.structure(parameters)
    parameters, mean, square = jax.tree.transpose(outer, jax.tree.structure((0, 0, 0)), updated)
    return parameters, Moments(mean, square, count)


def decays(path: tuple) -> bool:
    """Tell by its path in the tree of parameters whether a weight decays.

    The number of dimensions would not tell: a bias that is stacked over layers has two.
    """
    return path[-1].key in ("kernel", "table")


def clip_factor(norm: Float[Array, ""], limit: float) -> Float[Array, ""]:
    """Return what a gradient of the given global norm is multiplied by to be within `limit`."""
    return jnp.minimum(1.0, limit / (norm + 1e-6)) if limit else jnp.ones_like(norm)


def make_schedule(config: Config) -> Callable[[Array], Array]:
    """Return the learning rate as a function of the steps taken before.

    `cosine` rises linearly over `warmup_tokens`, then follows half a cosine from the peak to the
    minimum at `decay_tokens`, and stays there (Megatron's rule, tokens in place of steps).
    `wsd` rises, stays at the peak, and falls linearly over the run's last `decay_tokens`
    (Hu et al., "MiniCPM", 2024, section 4).

    The rate is fp32, or of the type of its argument if that is a wider float. It errs by a few
    roundings of the peak: tokens, which outgrow int32 and would be rounded in fp32, are counted in
    steps, and the fall is computed so that nothing cancels where it is almost nothing.
    """
    optimizer = config.optimizer
    peak, low = optimizer.learning_rate, optimizer.min_learning_rate
    start, end = (tokens / config.tokens_per_step for tokens in config.decay_span)
    warmup = optimizer.warmup_tokens / config.tokens_per_step

    def learning_rate(steps: Array) -> Array:
        # The rate of a step is that of its last token, so the first step already learns.
        seen = (steps + 1).astype(jnp.promote_types(steps.dtype, jnp.float32))
        left = jnp.clip((end - seen) / (end - start), 0.0, 1.0)
        fall = jnp.sin(jnp.pi / 2 * left) ** 2 if optimizer.schedule == "cosine" else left
        decayed = low + (peak - low) * fall
        return jnp.where(seen <= warmup, peak * (seen / warmup), decayed)

    return learning_rate
