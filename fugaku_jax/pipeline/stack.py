"""Run layers that are stacked along a leading axis, and keep little of them for the way back.

Differentiating `jax.lax.scan` would do, but XLA's CPU backend converts whole stacks of bf16 to
fp32 before it slices them, and then holds both. What the backward pass needs is therefore stacked
as plain bits, which nothing converts. And as forward and backward are functions of their own here,
a pipeline can run them apart, and weights that lie scattered over devices are gathered a layer at
a time in both, and not kept.

All passes work in place: they write one layer's rows into buffers that they are given and return,
and add its gradients to totals, so that a pipeline's buffers are never copied.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from fugaku_jax.pipeline.buffers import add, empty, read, write
from fugaku_jax.pipeline.residuals import pack, unpack

Layer = Callable[[Array, PyTree, Any], Array]
"""Maps `x`, one layer's weights and `(its entry of per_layer, shared)` to the next `x`."""


@dataclass(frozen=True)
class Exchange:
    """How one layer's weights come together where they lie scattered over devices."""

    gather: Callable[[PyTree], PyTree] = lambda weights: weights
    """Makes a layer's whole weights of this device's part."""
    scatter: Callable[[PyTree], PyTree] = lambda gradients: gradients
    """Adds the gradients of all devices up and returns this device's part; gather transposed."""


ALL_HERE = Exchange()
"""Every device has the whole weights."""


class Run(NamedTuple):
    """Layers that follow each other in the stacks of weights and gradients."""

    first: Array | int
    """Row of the first one."""
    count: Array | int
    """How many they are."""
    per_layer: Any
    """Other arrays with a leading axis of the run's layers, such as the layers' numbers."""


def scan_layers(
    layer: Layer,
    x: Array,
    weights: PyTree[Array],
    per_layer: Any,
    shared: Any,
    exchange: Exchange = ALL_HERE,
) -> Array:
    """Pass `x` through all layers; differentiable in `x` and `weights`.

    Args:
        layer: a layer; the next `x` has the shape and the type of `x`.
        weights: each with a leading axis of layers.
        per_layer: other arrays with a leading axis of layers, such as the layers' numbers.
        shared: arrays that every layer is given whole.
        exchange: where the weights are.

    Raises:
        ValueError: the leading axes differ: rows that are no layers would take part.
    """
    counts = {len(leaf) for leaf in jax.tree.leaves((weights, per_layer))}
    if len(counts) > 1:
        raise ValueError(f"Stacks of {sorted(counts)} layers do not belong together.")

    @jax.custom_vjp
    def run(x: Array, weights: PyTree, per_layer: Any, shared: Any) -> Array:
        def body(x: Array, one: tuple[PyTree, Any]) -> tuple[Array, None]:
            return layer(x, exchange.gather(one[0]), (one[1], shared)), None

        return jax.lax.scan(body, x, (weights, per_layer))[0]

    def forward(x: Array, weights: PyTree, per_layer: Any, shared: Any) -> tuple[Array, Any]:
        count = len(jax.tree.leaves(weights)[0])
        layers = Run(0, count, per_layer)
        types = kept_types(layer, x, weights, layers, shared, exchange)
        kept = [empty(count, leaf) for leaf in jax.tree.leaves(types)]
        y, kept = forward_layers(layer, x, weights, layers, shared, kept, 0, exchange)
        return y, (kept, weights)

    def backward(kept: tuple[PyTree, PyTree], dy: Array) -> tuple[Array, PyTree, None, None]:
        kept, weights = kept
        layers = Run(0, len(jax.tree.leaves(weights)[0]), None)
        zero = jax.tree.map(jnp.zeros_like, weights)
        return *backward_layers(kept, 0, weights, layers, dy, zero, exchange), None, None

    run.defvjp(forward, backward)
    return run(x, weights, per_layer, shared)


def kept_types(
    layer: Layer,
    x: Any,
    weights: PyTree[Array],
    run: Run,
    shared: Any,
    exchange: Exchange = ALL_HERE,
) -> PyTree[jax.ShapeDtypeStruct]:
    """Return the types of what a layer's backward pass needs; arguments as of `forward_layers`."""

    def kept(x: Array, i: Array) -> PyTree:
        return _forward(layer, x, weights, run, shared, i, exchange)[1]

    return jax.eval_shape(kept, x, jax.ShapeDtypeStruct((), jnp.int32))


def forward_layers(
    layer: Layer,
    x: Array,
    weights: PyTree[Array],
    run: Run,
    shared: Any,
    buffers: list[Array],
    row: Array | int,
    exchange: Exchange = ALL_HERE,
) -> tuple[Array, PyTree]:
    """Pass `x` through a run of layers, and note what the backward pass will need.

    Args:
        buffers: one for each of `kept_types`, with a leading axis of rows.
        row: where the first layer's notes go; those of the others follow.

    Returns:
        the last `x`, and the buffers as leaves of a tree. The tree holds traced code in its
        structure, which no two traces share; but the leaves are the same in all.
    """
    structure = None

    def body(i: Array, carry: tuple[Array, list[Array]]) -> tuple[Array, list[Array]]:
        nonlocal structure
        x, kept = _forward(layer, carry[0], weights, run, shared, i, exchange)
        leaves, structure = jax.tree.flatten(kept)
        return x, write(carry[1], leaves, row + i)

    x, buffers = jax.lax.fori_loop(0, run.count, body, (x, buffers))
    return x, jax.tree.unflatten(structure, buffers)


def backward_layers(
    kept: PyTree,
    row: Array | int,
    weights: PyTree[Array],
    run: Run,
    dy: Array,
    total: PyTree[Array],
    exchange: Exchange = ALL_HERE,
) -> tuple[Array, PyTree[Array]]:
    """Return the gradient of `x`, and the total to which those of the weights have been added.

    Args:
        kept: the tree that `forward_layers` returned.
        row: where the first layer's notes are.
        dy: gradient of the last `x`.
        total: gradients of the weights so far, stacked as these are.
    """

    def body(n: Array, carry: tuple[Array, PyTree]) -> tuple[Array, PyTree]:
        i = run.count - 1 - n
        whole = exchange.gather(read(weights, run.first + i))
        dx, gradients = unpack(read(kept, row + i), whole)(carry[0])
        return dx, add(carry[1], exchange.scatter(gradients), run.first + i)

    return jax.lax.fori_loop(0, run.count, body, (dy, total))


def _forward(
    layer: Layer,
    x: Array,
    weights: PyTree,
    run: Run,
    shared: Any,
    i: Array | int,
    exchange: Exchange,
) -> tuple[Array, PyTree]:
    """Run one layer; return the next `x` and what was kept, packed."""
    whole = exchange.gather(read(weights, run.first + i))
    given = (read(run.per_layer, i), shared)
    y, pullback = jax.vjp(lambda x, weights: layer(x, weights, given), x, whole)
    return y, pack(pullback, whole)
