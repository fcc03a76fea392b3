"""The learning rate over a run."""

import math
from collections.abc import Callable

import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array

from fugaku_jax.config import Config


def make_learning_rate(config: Config) -> Callable[[ArrayLike], Array]:
    """Return the learning rate as an `optax.Schedule`, a function of the steps taken before.

    `cosine` rises linearly over `warmup_tokens`, then follows half a cosine from the peak to the
    minimum at `decay_tokens`, and stays there (Megatron's rule, tokens in place of steps).
    `wsd` rises, stays at the peak, and falls linearly over the run's last `decay_tokens`
    (Hu et al., "MiniCPM", 2024, section 4).

    Tokens are floats in units of those of a step: they outgrow int32, and counted one by one they
    would be rounded in fp32. The rate is fp32, or of the type of its argument if that is a wider
    float, and errs by a few roundings of itself. That is why only the joint is optax's: its linear
    and cosine schedules take what is left from one, so that, of a decay over 200,000 steps, the
    last but one has 0.5 % too much, and a warm-up over 2,000 begins 5e-5 too high.
    """
    optimizer = config.optimizer
    peak, low = optimizer.learning_rate, optimizer.min_learning_rate
    begin, end = (tokens / config.tokens_per_step for tokens in config.decay_span)
    warmup = optimizer.warmup_tokens / config.tokens_per_step
    fallen_from = math.floor(warmup) + 1  # the first step whose last token is past the warm-up

    def rise(seen: ArrayLike) -> Array:
        return peak * (jnp.asarray(seen) / warmup)

    def fall(seen: ArrayLike) -> Array:
        left = jnp.clip((end - fallen_from - seen) / (end - begin), 0.0, 1.0)
        fallen = jnp.sin(jnp.pi / 2 * left) ** 2 if optimizer.schedule == "cosine" else left
        return low + (peak - low) * fallen

    of_tokens = optax.join_schedules([rise, fall], [fallen_from])

    def learning_rate(steps: ArrayLike) -> Array:
        # The rate of a step is that of its last token, so the first step already learns.
        steps = jnp.asarray(steps)
        seen = (steps + 1).astype(jnp.promote_types(steps.dtype, jnp.float32))
        return jnp.asarray(of_tokens(seen))

    return learning_rate
