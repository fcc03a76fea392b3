"""The backward pass of a run of layers in two: first through all layers, then their weights.

Both work in place, like the passes of `stack`.
"""

from typing import Any

import jax
from jaxtyping import Array, PyTree

from fugaku_jax.pipeline.buffers import add, read, write
from fugaku_jax.pipeline.residuals import from_bits, to_bits, unpack
from fugaku_jax.pipeline.split_backward import Halves, split
from fugaku_jax.pipeline.stack import ALL_HERE, Exchange, Run


def left_types(
    kept: PyTree[jax.ShapeDtypeStruct],
    weights: PyTree[Array],
    dy: Any,
    exchange: Exchange = ALL_HERE,
) -> list[jax.ShapeDtypeStruct]:
    """Return the types of what `backward_inputs` leaves of a layer for `backward_weights`.

    Args:
        kept: what `kept_types` returned.
        dy: type of an `x`.
    """

    def leaves(packed: PyTree, weights: PyTree, dy: Array) -> list[Array]:
        whole = exchange.gather(read(weights, 0))
        found = _halves(packed, whole, dy).first(jax.tree.leaves((packed, whole)), dy)[1]
        return jax.tree.leaves(list(map(to_bits, found)))

    return jax.eval_shape(leaves, kept, weights, dy)


def backward_inputs(
    kept: PyTree,
    row: Array | int,
    weights: PyTree[Array],
    run: Run,
    dy: Array,
    left: list[Array],
    left_row: Array | int,
    exchange: Exchange = ALL_HERE,
) -> tuple[Array, list[Array]]:
    """Return the gradient of `x`, and note in `left` what those of the weights take besides.

    Args:
        left: buffers for `left_types`.
        left_row: where the first layer's notes go.
    """

    def body(n: Array, carry: tuple[Array, list[Array]]) -> tuple[Array, list[Array]]:
        i = run.count - 1 - n
        dy, left = carry
        whole = exchange.gather(read(weights, run.first + i))
        packed = read(kept, row + i)
        (dx,), found = _halves(packed, whole, dy).first(jax.tree.leaves((packed, whole)), dy)
        return dx, write(left, jax.tree.leaves(list(map(to_bits, found))), left_row + i)

    return jax.lax.fori_loop(0, run.count, body, (dy, left))


def backward_weights(
    kept: PyTree,
    row: Array | int,
    weights: PyTree[Array],
    run: Run,
    dy: Any,
    left: list[Array],
    left_row: Array | int,
    total: PyTree[Array],
    exchange: Exchange = ALL_HERE,
) -> PyTree[Array]:
    """Return the total to which the gradients of the weights have been added.

    Args:
        dy: type of an `x`; its value is not needed any more.
        left: what `backward_inputs` returned.
        left_row: as it was there.
    """

    def body(i: Array, total: PyTree) -> PyTree:
        whole = exchange.gather(read(weights, run.first + i))
        packed = read(kept, row + i)
        halves = _halves(packed, whole, dy)
        found = from_bits(read(left, left_row + i), halves.left)
        gradients = halves.second(jax.tree.leaves((packed, whole)), found)
        gradients = jax.tree.unflatten(jax.tree.structure(whole), gradients)
        return add(total, exchange.scatter(gradients), run.first + i)

    return jax.lax.fori_loop(0, run.count, body, total)


def _halves(packed: PyTree, weights: PyTree, dy: Any) -> Halves:
    """Split the pullback of a layer; its values are the leaves of `packed` and of `weights`."""
    values, structure = jax.tree.flatten((packed, weights))

    def pullback(values: Any, dy: Array) -> list[Array]:
        return jax.tree.leaves(unpack(*jax.tree.unflatten(structure, values))(dy))

    return split(pullback, values, dy)
