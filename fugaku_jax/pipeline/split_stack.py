"""The backward pass of some layers in two: first through all of them, then their weights.

Both work in place, like the passes of `stack`; shapes are local as there.
"""

from typing import Any

import jax
from jaxtyping import Array, Float, Int, PyTree, Shaped

from fugaku_jax.pipeline.buffers import add, read, write
from fugaku_jax.pipeline.residuals import from_bits, to_bits, unpack
from fugaku_jax.pipeline.split_backward import Halves, split
from fugaku_jax.pipeline.stack import WHOLE, Fsdp, LayerRange


def deferred_types(
    residuals: PyTree[jax.ShapeDtypeStruct],
    weights: PyTree[Float[Array, "L ..."]],
    dy: Any,
    fsdp: Fsdp = WHOLE,
) -> list[jax.ShapeDtypeStruct]:
    """Return the types of what `backward_inputs` leaves of a layer for `backward_weights`.

    Args:
        residuals: what `residual_types` returned.
        dy: type of an `x`.
    """

    def leaves(packed: PyTree, weights: PyTree, dy: Array) -> list[Array]:
        whole = fsdp.gather(read(weights, 0))
        found = _halves(packed, whole, dy).first(jax.tree.leaves((packed, whole)), dy)[1]
        return jax.tree.leaves(list(map(to_bits, found)))

    return jax.eval_shape(leaves, residuals, weights, dy)


def backward_inputs(
    residuals: PyTree[Shaped[Array, "R ..."]],
    row: Int[Array, ""] | int,
    weights: PyTree[Float[Array, "L ..."]],
    layers: LayerRange,
    dy: Float[Array, "B T D"],
    deferred: list[Shaped[Array, "W ..."]],
    deferred_row: Int[Array, ""] | int,
    fsdp: Fsdp = WHOLE,
) -> tuple[Float[Array, "B T D"], list[Shaped[Array, "W ..."]]]:
    """Return the gradient of `x`, and note what those of the weights take besides.

    Args:
        deferred: buffers for `deferred_types`, with a leading axis of rows (W).
        deferred_row: where those of the first layer go.
    """

    def body(n: Array, carry: tuple[Array, list[Array]]) -> tuple[Array, list[Array]]:
        i = layers.count - 1 - n
        dy, deferred = carry
        whole = fsdp.gather(read(weights, layers.first + i))
        packed = read(residuals, row + i)
        (dx,), found = _halves(packed, whole, dy).first(jax.tree.leaves((packed, whole)), dy)
        bits = jax.tree.leaves(list(map(to_bits, found)))
        return dx, write(deferred, bits, deferred_row + i)

    return jax.lax.fori_loop(0, layers.count, body, (dy, deferred))


def backward_weights(
    residuals: PyTree[Shaped[Array, "R ..."]],
    row: Int[Array, ""] | int,
    weights: PyTree[Float[Array, "L ..."]],
    layers: LayerRange,
    dy: Any,
    deferred: list[Shaped[Array, "W ..."]],
    deferred_row: Int[Array, ""] | int,
    total: PyTree[Float[Array, "L ..."]],
    fsdp: Fsdp = WHOLE,
) -> PyTree[Float[Array, "L ..."]]:
    """Return the total to which the gradients of the weights have been added.

    Args:
        dy: type of an `x`; its value is not needed any more.
        deferred: what `backward_inputs` returned.
        deferred_row: as it was there.
    """

    def body(i: Array, total: PyTree) -> PyTree:
        own = read(weights, layers.first + i)
        whole = fsdp.gather(own)
        packed = read(residuals, row + i)
        halves = _halves(packed, whole, dy)
        found = from_bits(read(deferred, deferred_row + i), halves.deferred)
        gradients = halves.second(jax.tree.leaves((packed, whole)), found)
        gradients = jax.tree.unflatten(jax.tree.structure(whole), gradients)
        return add(total, fsdp.scatter(gradients, own), layers.first + i)

    return jax.lax.fori_loop(0, layers.count, body, total)


def _halves(packed: PyTree, weights: PyTree, dy: Any) -> Halves:
    """Split the pullback of a layer; its values are the leaves of `packed` and of `weights`."""
    values, structure = jax.tree.flatten((packed, weights))

    def pullback(values: Any, dy: Array) -> list[Array]:
        return jax.tree.leaves(unpack(*jax.tree.unflatten(structure, values))(dy))

    return split(pullback, values, dy)
