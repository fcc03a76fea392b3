"""What a pipeline's stages compute, as the schedule's executor calls it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
from jaxtyping import Array, Int, PyTree


class Chunk(NamedTuple):
    """A run of layers that a stage holds."""

    first: Array | int
    """Row of its first layer in the stacks of this stage's weights and gradients."""
    count: Array | int
    """How many layers it has."""
    numbers: Int[Array, " N"]
    """The numbers of its layers in the model, and what fills a shorter chunk up."""


@dataclass(frozen=True)
class StageProgram:
    """What the stages compute, of one micro-batch given by its number.

    Notes for a later pass are written to buffers with a leading axis of rows: a layer has one, and
    a chunk's layers follow each other from a given row on.
    """

    embed: Callable[[PyTree, Array], Array]
    """What enters the first layer, from the shared weights."""
    kept_types: Callable[[PyTree, Chunk, Any, Array], PyTree[jax.ShapeDtypeStruct]]
    """The types of what `forward` notes of a layer, from weights, a chunk, the type of its
    input and a micro-batch."""
    forward: Callable[[PyTree, Chunk, Array, Array, list[Array], Array], tuple[Array, PyTree]]
    """A chunk: from the weights, its input, the micro-batch, the buffers and a row to its output
    and the buffers, as leaves of a tree."""
    backward: Callable[[PyTree, Array, PyTree, Chunk, Array, PyTree], tuple[Array, PyTree]]
    """From the tree of buffers and the row, the weights, the chunk and the gradient of its output
    to that of its input and the total of the weights' gradients, which is given last."""
    left_types: Callable[[PyTree, PyTree, Any], list[jax.ShapeDtypeStruct]]
    """The types of what `backward_input` notes of a layer, from those that `kept_types` returned,
    the weights and an input's type."""
    backward_input: Callable[
        [PyTree, Array, PyTree, Chunk, Array, list[Array], Array], tuple[Array, list[Array]]
    ]
    """As `backward`, without the weights' gradients; their total gives way to buffers and a row."""
    backward_weight: Callable[
        [PyTree, Array, PyTree, Chunk, Any, list[Array], Array, PyTree], PyTree
    ]
    """The total of the weights' gradients, from those buffers; a gradient's type is enough."""
    loss: Callable[[PyTree, Array, Array], Array]
    """The summed loss, from the shared weights and the last layer's output."""
