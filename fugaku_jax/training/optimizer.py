"""The optimizer of a run: AdamW, or any of optax's, over parameters as a run's state has them.

Either has what optax calls a gradient transformation, `init(params)` and
`update(gradients, state, params)`, where `update` is also told the learning rate of the step.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from fugaku_jax.errors import InputError
from fugaku_jax.json_types import shown
from fugaku_jax.layout.layout import Layout
from fugaku_jax.training.adamw import AdamW
from fugaku_jax.training.layer_by_layer import LayerByLayer
from fugaku_jax.training.optax_kinds import make_kind

Optimizer = AdamW | LayerByLayer


def make_optimizer(layout: Layout, built: Any = None) -> Optimizer:
    """Return the optimizer of a run.

    Args:
        layout: the run on its mesh.
        built: the `optax.GradientTransformation` that its recipe builds, if `optimizer.kind` is
            `recipe`.

    Raises:
        InputError: the kind is `recipe` and there is none, or none that can be saved; or it is
            another and there is one.
    """
    kind = layout.config.optimizer.kind
    if kind == "recipe" and built is None:
        raise InputError(
            "optimizer.kind is 'recipe', but no transformation was handed over; train by "
            "`launch/train.py` and the recipe that defines `optimizer`, or by "
            "`train(..., optimizer=...)`; other programs need another kind."
        )
    if kind != "recipe" and built is not None:
        raise InputError(
            f"optimizer.kind is {kind!r}, but it must be 'recipe' for the transformation to be "
            "used that was handed over."
        )
    if kind == "adamw":
        return AdamW(layout.config.optimizer)
    if built is None:
        return LayerByLayer(layout, make_kind(layout))
    if not isinstance(built, optax.GradientTransformation):
        raise InputError(
            f"The recipe's `optimizer` returns {shown(built)}, but it must return an "
            "optax.GradientTransformation."
        )
    optimizer = LayerByLayer(layout, built)
    for path, leaf in jax.tree.leaves_with_path(optimizer.memory_shapes()):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.extended):
            raise InputError(
                f"The recipe's `optimizer` keeps {leaf.dtype} in its state, at "
                f"{jax.tree_util.keystr(path)}, which no checkpoint can hold; it must keep numbers."
            )
    return optimizer


def clip_factor(norm: Float[Array, ""], limit: float) -> Float[Array, ""]:
    """Return what a gradient of the given global norm is multiplied by to be within `limit`."""
    return jnp.minimum(1.0, limit / (norm + 1e-6)) if limit else jnp.ones_like(norm)
