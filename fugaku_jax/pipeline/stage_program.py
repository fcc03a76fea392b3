"""What a pipeline's stages compute, as the schedule's executor calls it.

All of it is of one micro-batch, given by its number `m`, and all shapes are local, as in `stack`: B
rows and T positions of this device. `shared` are the weights outside of the layers, which the first
and the last stage use; `weights` those of this stage's layers, stacked.
"""

from abc import ABC, abstractmethod
from typing import Any

import jax
from jaxtyping import Array, Float, Int, PyTree, Shaped

from fugaku_jax.pipeline.split_stack import backward_inputs, backward_weights, deferred_types
from fugaku_jax.pipeline.stack import (
    WHOLE,
    Fsdp,
    Layer,
    LayerRange,
    backward_layers,
    forward_layers,
    residual_types,
)

Index = Int[Array, ""] | int
"""Number of a micro-batch, or of a row of a buffer."""
Stream = Float[Array, "B T D"]
Weights = PyTree[Float[Array, "L ..."]]
Shared = PyTree[Float[Array, "..."]]
Residuals = PyTree[Shaped[Array, "R ..."]]
"""Of a chunk: buffers as leaves of a tree, whose structure holds traced code."""
Buffers = list[Shaped[Array, "R ..."]]
"""What is noted for a later pass. A layer has a row, and a chunk's layers follow each other."""


class StageProgram(ABC):
    """The work that a schedule puts in order: layers, and what is before and behind them."""

    def __init__(self, layer: Layer, fsdp: Fsdp = WHOLE) -> None:
        """Take what all chunks consist of.

        Args:
            layer: a layer; its entry of `per_layer` is its number in the model.
            fsdp: where its weights are.
        """
        self.layer, self.fsdp = layer, fsdp

    @abstractmethod
    def inputs(self, m: Index) -> Any:
        """Return what every layer is given of a micro-batch."""

    @abstractmethod
    def embed(self, shared: Shared, m: Index) -> Stream:
        """Return what enters the first layer."""

    @abstractmethod
    def loss(self, shared: Shared, y: Stream, m: Index) -> tuple[Float[Array, ""], Any]:
        """Return the summed loss of the last layer's output, and the losses `[B, T]` or None."""

    def zero_gradients(self, weights: Weights) -> Weights:
        """Return gradients of zero of this stage's layers."""
        return self.fsdp.zero(weights)

    def residual_types(
        self, weights: Weights, chunk: LayerRange, x: Any, m: Index
    ) -> PyTree[jax.ShapeDtypeStruct]:
        """Return the types of a layer's residuals, `x` being the type of its input."""
        return residual_types(self.layer, x, weights, chunk, self.inputs(m), self.fsdp)

    def forward(
        self,
        weights: Weights,
        chunk: LayerRange,
        x: Stream,
        m: Index,
        buffers: Buffers,
        row: Index,
    ) -> tuple[Stream, Residuals]:
        """Return a chunk's output, and the buffers with its residuals, as leaves of a tree."""
        given = self.inputs(m)
        return forward_layers(self.layer, x, weights, chunk, given, buffers, row, self.fsdp)

    def backward(
        self,
        residuals: Residuals,
        row: Index,
        weights: Weights,
        chunk: LayerRange,
        dy: Stream,
        total: Weights,
    ) -> tuple[Stream, Weights]:
        """Return the gradient of a chunk's input, and the total with those of its weights."""
        return backward_layers(residuals, row, weights, chunk, dy, total, self.fsdp)

    def deferred_types(
        self, residuals: PyTree[jax.ShapeDtypeStruct], weights: Weights, dy: Any
    ) -> list[jax.ShapeDtypeStruct]:
        """Return the types of what `backward_input` notes of a layer."""
        return deferred_types(residuals, weights, dy, self.fsdp)

    def backward_input(
        self,
        residuals: Residuals,
        row: Index,
        weights: Weights,
        chunk: LayerRange,
        dy: Stream,
        deferred: Buffers,
        deferred_row: Index,
    ) -> tuple[Stream, Buffers]:
        """Return the gradient of a chunk's input, and buffers with what its weights' take."""
        return backward_inputs(
            residuals, row, weights, chunk, dy, deferred, deferred_row, self.fsdp
        )

    def backward_weight(
        self,
        residuals: Residuals,
        row: Index,
        weights: Weights,
        chunk: LayerRange,
        dy: Any,
        deferred: Buffers,
        deferred_row: Index,
        total: Weights,
    ) -> Weights:
        """Return the total with the gradients put off, `dy` being a gradient's type."""
        return backward_weights(
            residuals, row, weights, chunk, dy, deferred, deferred_row, total, self.fsdp
        )
