"""Run layers that are stacked along a leading axis, and keep little of them for the way back.

Differentiating `jax.lax.scan` would do, but XLA's CPU backend converts whole stacks of bf16 to
fp32 before it slices them, and then holds both. A layer's residuals, what its backward pass needs,
are therefore stacked as plain bits, which nothing converts. And as forward and backward are
functions of their own here, a pipeline can run them apart, and weights that lie scattered over
devices are gathered a layer at a time in both, and not kept.

All passes work in place: they write one layer's residuals into rows of buffers that they are given
and return, and add its gradients to totals, so that a pipeline's buffers are never copied.

Inside the step's `shard_map` all shapes are local: B rows and T positions of this device; L layers
of its stage, each weight cut as FSDP cuts it; tensor axes alone are in the types.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree, Shaped

from fugaku_jax.pipeline.buffers import add, empty, read, write
from fugaku_jax.pipeline.overlap import Overlap
from fugaku_jax.pipeline.residuals import pack, unpack

Layer = Callable[[Array, PyTree, Any], Array]
"""Maps `x` `[B, T, D]`, one layer's whole weights and `(its entry of per_layer, shared)` to the
next `x`, of the same shape and type."""


@dataclass(frozen=True)
class Fsdp:
    """How one layer's weights come together where they lie scattered over devices, or in parts."""

    gather: Callable[[PyTree], PyTree] = lambda weights: weights
    """Makes a layer's whole weights of what this device has of them."""
    scatter: Callable[[PyTree, PyTree], PyTree] = lambda gradients, _: gradients
    """Makes, of the gradients of a layer's whole weights and of what this device has of these, the
    gradients of that, summed over devices; gather transposed."""
    zero: Callable[[PyTree], PyTree] = lambda weights: jax.tree.map(jnp.zeros_like, weights)
    """Returns gradients of zero of stacked weights, None for those that have none."""
    overlap: Overlap | None = None
    """What takes the place of `scatter` where a layer's sums may travel while the next computes."""


WHOLE = Fsdp()
"""Every device has the whole weights."""


class LayerRange(NamedTuple):
    """Layers that follow each other in the stacks of weights and gradients."""

    first: Int[Array, ""] | int
    """Row of the first one."""
    count: Int[Array, ""] | int
    """How many they are."""
    per_layer: PyTree[Shaped[Array, "C ..."]]
    """Other arrays, an entry for each of them, such as the layers' numbers in the model; what is
    beyond `count` fills up."""


def scan_layers(
    layer: Layer,
    x: Float[Array, "B T D"],
    weights: PyTree[Float[Array, "L ..."]],
    per_layer: PyTree[Shaped[Array, "N ..."]],
    shared: Any,
    fsdp: Fsdp = WHOLE,
) -> Float[Array, "B T D"]:
    """Pass `x` through all layers; differentiable in `x` and `weights`.

    Args:
        layer: a layer.
        weights: stacked.
        per_layer: other arrays of each layer, such as its number (N is L).
        shared: arrays that every layer is given whole.
        fsdp: where the weights are.

    Raises:
        ValueError: the leading axes differ: rows that are no layers would take part.
    """
    counts = {len(leaf) for leaf in jax.tree.leaves((weights, per_layer))}
    if len(counts) > 1:
        raise ValueError(f"Stacks of {sorted(counts)} layers do not belong together.")

    @jax.custom_vjp
    def run(x: Array, weights: PyTree, per_layer: Any, shared: Any) -> Array:
        def body(x: Array, one: tuple[PyTree, Any]) -> tuple[Array, None]:
            return layer(x, fsdp.gather(one[0]), (one[1], shared)), None

        return jax.lax.scan(body, x, (weights, per_layer))[0]

    def forward(x: Array, weights: PyTree, per_layer: Any, shared: Any) -> tuple[Array, Any]:
        count = len(jax.tree.leaves(weights)[0])
        layers = LayerRange(0, count, per_layer)
        types = residual_types(layer, x, weights, layers, shared, fsdp)
        buffers = [empty(count, leaf) for leaf in jax.tree.leaves(types)]
        y, residuals = forward_layers(layer, x, weights, layers, shared, buffers, 0, fsdp)
        return y, (residuals, weights)

    def backward(kept: tuple[PyTree, PyTree], dy: Array) -> tuple[Array, PyTree, None, None]:
        residuals, weights = kept
        layers = LayerRange(0, len(jax.tree.leaves(weights)[0]), None)
        total = fsdp.zero(weights)
        return *backward_layers(residuals, 0, weights, layers, dy, total, fsdp), None, None

    run.defvjp(forward, backward)
    return run(x, weights, per_layer, shared)


def residual_types(
    layer: Layer,
    x: Any,
    weights: PyTree[Float[Array, "L ..."]],
    layers: LayerRange,
    shared: Any,
    fsdp: Fsdp = WHOLE,
) -> PyTree[jax.ShapeDtypeStruct]:
    """Return the types of a layer's residuals; arguments as of `forward_layers`, or their types."""

    def residuals(x: Array, i: Array) -> PyTree:
        return _forward(layer, x, weights, layers, shared, i, fsdp)[1]

    return jax.eval_shape(residuals, x, jax.ShapeDtypeStruct((), jnp.int32))


def forward_layers(
    layer: Layer,
    x: Float[Array, "B T D"],
    weights: PyTree[Float[Array, "L ..."]],
    layers: LayerRange,
    shared: Any,
    buffers: list[Shaped[Array, "R ..."]],
    row: Int[Array, ""] | int,
    fsdp: Fsdp = WHOLE,
) -> tuple[Float[Array, "B T D"], PyTree[Shaped[Array, "R ..."]]]:
    """Pass `x` through some layers, and note their residuals.

    Args:
        buffers: one for each leaf of `residual_types`, with a leading axis of rows (R).
        row: where the first layer's residuals go; those of the others follow.

    Returns:
        the last `x`, and the buffers as leaves of a tree. The tree holds traced code in its
        structure, which no two traces share; but the leaves are the same in all.
    """
    structure = None

    def body(i: Array, carry: tuple[Array, list[Array]]) -> tuple[Array, list[Array]]:
        nonlocal structure
        x, residuals = _forward(layer, carry[0], weights, layers, shared, i, fsdp)
        leaves, structure = jax.tree.flatten(residuals)
        return x, write(carry[1], leaves, row + i)

    x, buffers = jax.lax.fori_loop(0, layers.count, body, (x, buffers))
    return x, jax.tree.unflatten(structure, buffers)


def backward_layers(
    residuals: PyTree[Shaped[Array, "R ..."]],
    row: Int[Array, ""] | int,
    weights: PyTree[Float[Array, "L ..."]],
    layers: LayerRange,
    dy: Float[Array, "B T D"],
    total: PyTree[Float[Array, "L ..."]],
    fsdp: Fsdp = WHOLE,
) -> tuple[Float[Array, "B T D"], PyTree[Float[Array, "L ..."]]]:
    """Return the gradient of `x`, and the total to which those of the weights have been added.

    Args:
        residuals: the tree that `forward_layers` returned.
        row: where those of the first layer are.
        dy: gradient of the last `x`.
        total: gradients of the weights so far, fp32, stacked and cut as `Fsdp.zero` gives them.
    """

    def layer_back(i: Array, dy: Array) -> tuple[Array, PyTree, PyTree]:
        own = read(weights, layers.first + i)
        dx, gradients = unpack(read(residuals, row + i), fsdp.gather(own))(dy)
        return dx, gradients, own

    if fsdp.overlap:
        one = jax.tree.map(lambda stack: stack[0], weights)
        types = jax.eval_shape(lambda own: fsdp.overlap.start(fsdp.gather(own), own), one)
        return fsdp.overlap.backward(layer_back, types, layers.first, layers.count, dy, total)

    def body(n: Array, carry: tuple[Array, PyTree]) -> tuple[Array, PyTree]:
        i = layers.count - 1 - n
        dx, gradients, own = layer_back(i, carry[0])
        return dx, add(carry[1], fsdp.scatter(gradients, own), layers.first + i)

    return jax.lax.fori_loop(0, layers.count, body, (dy, total))


def _forward(
    layer: Layer,
    x: Array,
    weights: PyTree,
    layers: LayerRange,
    shared: Any,
    i: Array | int,
    fsdp: Fsdp,
) -> tuple[Array, PyTree]:
    """Run one layer; return the next `x` and the residuals, packed."""
    whole = fsdp.gather(read(weights, layers.first + i))
    given = (read(layers.per_layer, i), shared)
    y, pullback = jax.vjp(lambda x, weights: layer(x, weights, given), x, whole)
    return y, pack(pullback, whole)
