"""The way back through stacked layers while each one's sums travel until the layer before is done.

Shapes are as in `stack.py`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
from jaxtyping import Array, Float, Int, PyTree

from fugaku_jax.pipeline.buffers import add

LayerBack = Callable[[Array, Array], tuple[Array, PyTree, PyTree]]
"""Takes a layer's place among those that are passed and the gradient of what it gave; returns that
of what it was given, those of its whole weights, and its own weights."""


@dataclass(frozen=True)
class Overlap:
    """`Fsdp.scatter` in two halves, between which there is the layer before."""

    start: Callable[[PyTree, PyTree], Any]
    """Takes what `scatter` takes, and returns tickets of what is under way."""
    done: Callable[[Any, Any], PyTree]
    """Returns what `scatter` does, of tickets, and of others that must have been started before."""
    nothing: Callable[[Any], Any]
    """Returns tickets of zeros, of the types of others."""

    def backward(
        self,
        layer_back: LayerBack,
        types: Any,
        first: Int[Array, ""] | int,
        count: Int[Array, ""] | int,
        dy: Float[Array, "B T D"],
        total: PyTree[Float[Array, "L ..."]],
    ) -> tuple[Float[Array, "B T D"], PyTree[Float[Array, "L ..."]]]:
        """Return what `stack.backward_layers` returns.

        Args:
            layer_back: the way back through one layer.
            types: of the tickets of a layer.
            first: row of the first layer in `total`.
            count: how many layers are passed.
            dy: gradient of the last `x`.
            total: gradients of the weights so far.
        """

        def body(n: Array, carry: tuple[Array, PyTree, Any]) -> tuple[Array, PyTree, Any]:
            i = count - 1 - n
            dx, gradients, own = layer_back(i, carry[0])
            started = self.start(gradients, own)
            # In the first turn zeros, for which any row will do.
            return dx, add(carry[1], self.done(carry[2], started), first + i + 1), started

        dx, total, last = jax.lax.fori_loop(0, count, body, (dy, total, self.nothing(types)))
        return dx, add(total, self.done(last, last), first)
