"""AdamW over all parameters, by the fused kernel, behind optax's interface."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, Int, PyTree

from fugaku_jax.config import OptimizerConfig
from fugaku_jax.kernels.adamw import adamw
from fugaku_jax.layout.placement import Placement


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Moments:
    """What AdamW remembers."""

    mean: PyTree[Float[Array, "..."]]
    """Running mean of the gradient, shaped as the parameters."""
    square: PyTree[Float[Array, "..."]]
    """Running mean of the squared gradient."""
    count: Int[Array, ""]
    """Updates applied."""


@dataclass(frozen=True)
class AdamW:
    """AdamW; matrices and tables decay, biases and norms do not."""

    config: OptimizerConfig

    def init(self, params: PyTree[Float[Array, "..."]]) -> Moments:
        """Return the moments before the first update: fp32 zeros, shaped as the parameters."""
        mean, square = (
            jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), params) for _ in range(2)
        )
        return Moments(mean, square, jnp.int32(0))

    def update(
        self,
        updates: PyTree[Float[Array, "..."]],
        state: Moments,
        params: PyTree[Float[Array, "..."]],
        *,
        learning_rate: Float[Array, ""],
    ) -> tuple[PyTree[Float[Array, "..."]], Moments]:
        """Turn gradients into what is added to the parameters, as optax does."""
        always = jnp.float32(1), jnp.asarray(True)
        new, moments = self.apply(params, state, updates, *always, learning_rate)
        return jax.tree.map(jnp.subtract, new, params), moments

    def apply(
        self,
        parameters: PyTree[Float[Array, "..."]],
        moments: Moments,
        gradients: PyTree[Float[Array, "..."]],
        factor: Float[Array, ""],
        apply: Bool[Array, ""],
        learning_rate: Float[Array, ""],
    ) -> tuple[PyTree[Float[Array, "..."]], Moments]:
        """Update all parameters where they lie, in one pass over memory.

        Args:
            gradients: shaped as the parameters.
            factor: what every gradient is multiplied by first.
            apply: if false, parameters and moments stay as they are.
            learning_rate: rate of this step.

        Returns:
            the new parameters and moments.
        """
        config, count = self.config, moments.count + apply.astype(jnp.int32)

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

    def placements(self, where: PyTree[Placement]) -> Moments:
        """Return where the moments lie, given where the parameters do."""
        everywhere: Any = Placement(PartitionSpec(), (), (), ())
        return Moments(where, where, everywhere)


def decays(path: tuple) -> bool:
    """Tell by its path in the tree of parameters whether a weight decays.

    The number of dimensions would not tell: a bias that is stacked over layers has two.
    """
    return path[-1].key in ("kernel", "table", "lora_a", "lora_b")
