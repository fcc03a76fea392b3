"""Number formats of a step, and the loss scale that fp16 needs."""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

Precision = Literal["fp32", "bf16", "fp16"]

COMPUTE_DTYPES: dict[Precision, jnp.dtype] = {
    "fp32": jnp.dtype(jnp.float32),
    "bf16": jnp.dtype(jnp.bfloat16),
    "fp16": jnp.dtype(jnp.float16),
}
"""Type of the forward and backward pass; weights and moments are fp32 with each."""

INITIAL_SCALE = 2.0**16
LARGEST_SCALE = 2.0**24
GROWTH_INTERVAL = 1000


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LossScale:
    """What the loss is multiplied by so that small gradients survive fp16.

    Source: Micikevicius et al., "Mixed Precision Training", 2017, section 3.2.
    """

    scale: Float[Array, ""]
    """The multiplier, a power of two."""
    good_steps: Int[Array, ""]
    """Steps since the scale last changed, all with finite gradients."""

    def adjust(self, finite: Bool[Array, ""]) -> "LossScale":
        """Halve the scale after a step that overflowed, double it after enough that did not."""
        good_steps = jnp.where(finite, self.good_steps + 1, 0)
        grow = good_steps >= GROWTH_INTERVAL
        up = jnp.minimum(self.scale * 2, LARGEST_SCALE)
        down = jnp.maximum(self.scale / 2, 1.0)
        scale = jnp.where(finite, jnp.where(grow, up, self.scale), down)
        return LossScale(scale, jnp.where(grow, 0, good_steps))


def initial_loss_scale(precision: Precision) -> LossScale | None:
    """Return the loss scale that a run starts with; None where the format needs none."""
    if precision != "fp16":
        return None
    return LossScale(jnp.float32(INITIAL_SCALE), jnp.int32(0))
