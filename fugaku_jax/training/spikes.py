"""Steps whose loss or gradient is far above that of the steps before, told within the step.

Source: OLMo's `SkipStepOptimizer` (OLMo et al., "2 OLMo 2 Furious", 2025, section 3): a step is
left out whose loss or gradient norm is more than some standard deviations above the mean of the
last 128 steps. Here steps that were left out do not enter the mean, so that a model which stays
where it jumped to is told by steps left out in a row.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

WINDOW = 128
"""Steps that are remembered."""
LEAST = WINDOW // 2
"""Steps that must be remembered before one is called a spike."""
LEAST_DEVIATION = 0.01
"""Least standard deviation, as a part of the mean: a loss that stands still has none of its own."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class RecentSteps:
    """Loss and gradient norm of the last steps that updated the weights."""

    losses: Float[Array, "W"]
    norms: Float[Array, "W"]
    count: Int[Array, ""]
    """Steps remembered so far; the next takes the place of number `count % W`."""

    def has_spike(
        self, loss: Float[Array, ""], norm: Float[Array, ""], deviations: float
    ) -> Bool[Array, ""]:
        """Tell whether a step is this many standard deviations above those before."""
        known = jnp.arange(WINDOW) < self.count

        def is_far(recent: Float[Array, "W"], value: Float[Array, ""]) -> Bool[Array, ""]:
            mean = jnp.mean(recent, where=known)
            deviation = jnp.maximum(jnp.std(recent, where=known), LEAST_DEVIATION * mean)
            return value > mean + deviations * deviation

        far = is_far(self.losses, loss) | is_far(self.norms, norm)
        return far & (self.count >= LEAST)

    def add(
        self, loss: Float[Array, ""], norm: Float[Array, ""], applied: Bool[Array, ""]
    ) -> "RecentSteps":
        """Remember a step, if it updated the weights."""
        at = self.count % WINDOW

        def put(recent: Float[Array, "W"], value: Float[Array, ""]) -> Float[Array, "W"]:
            return jnp.where(applied & (jnp.arange(WINDOW) == at), value, recent)

        return RecentSteps(
            put(self.losses, loss), put(self.norms, norm), self.count + applied.astype(jnp.int32)
        )


def no_recent_steps() -> RecentSteps:
    """Return what a run remembers before its first step."""
    return RecentSteps(jnp.zeros(WINDOW), jnp.zeros(WINDOW), jnp.int32(0))
