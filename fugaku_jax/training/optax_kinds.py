"""The optimizers of optax's that `optimizer.kind` names, for the parameters of one layer."""

import functools
from typing import Any

import jax
import optax
from flax import nnx
from jaxtyping import Array, Float, PyTree

from fugaku_jax.layout.layout import Layout
from fugaku_jax.models.layers import Linear
from fugaku_jax.training.adamw import decays

RMS_OF_ADAMW = 0.2
"""Root mean square that muon's updates get, about that of AdamW's, for one learning rate to fit
both matrices and what is left to Adam (Liu et al., "Muon is Scalable", 2025, section 2.2)."""


@functools.lru_cache
def make_kind(layout: Layout) -> optax.GradientTransformationExtraArgs:
    """Return the transformation that the run's `optimizer.kind` names.

    Whatever the kind, weight decay is that of AdamW: decoupled, and of matrices and tables alone.
    """
    config = layout.config.optimizer
    kinds = {
        "lion": lambda: optax.lion(1.0, config.beta1, config.beta2, weight_decay=0.0),
        "muon": lambda: optax.contrib.muon(
            1.0,
            beta=config.beta1,
            eps=config.epsilon,
            adam_b1=config.beta1,
            adam_b2=config.beta2,
            muon_weight_dimension_numbers=functools.partial(_matrices, _axes(layout)),
            consistent_rms=RMS_OF_ADAMW,
        ),
        "adafactor": optax.adafactor,
        "sgd": lambda: optax.sgd(1.0, momentum=config.beta1),
    }
    return optax.chain(
        kinds[config.kind](),  # what is added at a rate of 1, so its sign is turned already
        optax.add_decayed_weights(-config.weight_decay, _decaying),
        scale_by_rate_of_step(),
    )


def scale_by_rate_of_step() -> optax.GradientTransformationExtraArgs:
    """Return a transformation that multiplies updates by the learning rate of the step.

    The step hands it over. It is that of the configuration, which the metrics show, also after
    steps that were skipped, of which optax's own count of updates knows nothing.
    """

    def init(params: PyTree[Float[Array, "..."]]) -> optax.EmptyState:
        del params
        return optax.EmptyState()

    def update(
        updates: PyTree[Float[Array, "..."]],
        state: optax.OptState,
        params: PyTree[Float[Array, "..."]] | None = None,
        **given: Any,
    ) -> tuple[PyTree[Float[Array, "..."]], optax.OptState]:
        del params
        return jax.tree.map(lambda x: given["learning_rate"] * x, updates), state

    return optax.GradientTransformationExtraArgs(init, update)


def _decaying(parameters: PyTree[Float[Array, "..."]]) -> PyTree[bool]:
    return jax.tree.map_with_path(lambda path, _: decays(path), parameters)


def _axes(layout: Layout) -> dict[str, optax.contrib.MuonDimensionNumbers]:
    """Return which axes of each kernel of a layer are a matrix's, as the layer multiplies by it.

    Queries, keys and values, or gate and up, are matrices of their own.
    """
    layer = nnx.merge(layout.structure, layout.shapes).blocks
    axes = {}
    for name, module in vars(layer).items():
        if isinstance(module, Linear):
            operands, result = module.equation.split("->")
            kernel = operands.split(",")[1]
            of_sum = tuple(i for i, letter in enumerate(kernel) if letter not in result)
            of_result = tuple(i for i, x in enumerate(kernel) if x in result and x != "c")
            axes[name] = optax.contrib.MuonDimensionNumbers(of_sum, of_result)
    return axes


def _matrices(
    axes: dict[str, optax.contrib.MuonDimensionNumbers], parameters: PyTree[Float[Array, "..."]]
) -> PyTree[optax.contrib.MuonDimensionNumbers | None]:
    """Say of each parameter of a layer which matrix it is; tables and vectors are none."""
    return jax.tree.map_with_path(
        lambda path, _: axes.get(path[0].key) if path[-1].key == "kernel" else None, parameters
    )
