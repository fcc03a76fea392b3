"""Run layers that are stacked along a leading axis, and keep little of them for the way back.

`jax.lax.scan` alone would do, but XLA's CPU backend converts whole stacks of bf16 to fp32 before
it slices them, and then holds both. What the backward pass needs is therefore stacked as plain
bits, which nothing converts. And as forward and backward are functions of their own here, a
pipeline can run them apart, and weights that lie scattered over devices are gathered a layer at a
time in both, and not kept.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

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
    """

    @jax.custom_vjp
    def run(x: Array, weights: PyTree, per_layer: Any, shared: Any) -> Array:
        def body(x: Array, one: tuple[PyTree, Any]) -> tuple[Array, None]:
            return layer(x, exchange.gather(one[0]), (one[1], shared)), None

        return jax.lax.scan(body, x, (weights, per_layer))[0]

    def forward(x: Array, weights: PyTree, per_layer: Any, shared: Any) -> tuple[Array, Any]:
        y, kept = forward_layers(layer, x, weights, per_layer, shared, exchange)
        return y, (kept, weights)

    def backward(kept: tuple[PyTree, PyTree], dy: Array) -> tuple[Array, PyTree, None, None]:
        return *backward_layers(*kept, dy, exchange), None, None

    run.defvjp(forward, backward)
    return run(x, weights, per_layer, shared)


def forward_layers(
    layer: Layer,
    x: Array,
    weights: PyTree[Array],
    per_layer: Any,
    shared: Any,
    exchange: Exchange = ALL_HERE,
) -> tuple[Array, PyTree]:
    """Return the last `x` and what `backward_layers` needs, its arrays stacked over the layers."""

    def body(x: Array, one: tuple[PyTree, Any]) -> tuple[Array, PyTree]:
        weights, given = exchange.gather(one[0]), (one[1], shared)
        y, pullback = jax.vjp(lambda x, weights: layer(x, weights, given), x, weights)
        return y, _pack(pullback, weights)

    return jax.lax.scan(body, x, (weights, per_layer))


def backward_layers(
    kept: PyTree, weights: PyTree[Array], dy: Array, exchange: Exchange = ALL_HERE
) -> tuple[Array, PyTree[Array]]:
    """Return the gradients of `x` and of the weights.

    Args:
        kept: what `forward_layers` returned for these weights.
        dy: gradient of the last `x`.
    """

    def body(dy: Array, one: tuple[PyTree, PyTree]) -> tuple[Array, PyTree]:
        kept, weights = one
        dx, gradients = _unpack(kept, exchange.gather(weights))(dy)
        return dx, exchange.scatter(gradients)

    return jax.lax.scan(body, dy, (kept, weights), reverse=True)


@jax.tree_util.register_static
@dataclass(frozen=True)
class _Weight:
    """Stands for a residual that is a weight itself and need not be kept twice."""

    number: int


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Bits:
    """The bits of a bf16 residual, or of a key, as unsigned integers."""

    bits: Array
    is_key: bool = field(metadata={"static": True})


def _pack(pullback: PyTree, weights: PyTree) -> PyTree:
    """Turn what a layer's pullback holds into bits, and weights into their numbers."""
    numbers = {id(weight): n for n, weight in enumerate(jax.tree.leaves(weights))}

    def pack(residual: Array) -> Any:
        if id(residual) in numbers:
            return _Weight(numbers[id(residual)])
        if jax.dtypes.issubdtype(residual.dtype, jax.dtypes.prng_key):
            return _Bits(jax.random.key_data(residual), is_key=True)
        if residual.dtype == jnp.bfloat16:
            return _Bits(jax.lax.bitcast_convert_type(residual, jnp.uint16), is_key=False)
        return residual

    return jax.tree.map(pack, pullback)


def _unpack(packed: PyTree, weights: PyTree) -> Any:
    """Undo `_pack`: return the pullback, a function of `dy`."""
    leaves = jax.tree.leaves(weights)

    def unpack(residual: Any) -> Array:
        if isinstance(residual, _Weight):
            return leaves[residual.number]
        if isinstance(residual, _Bits) and residual.is_key:
            return jax.random.wrap_key_data(residual.bits)
        if isinstance(residual, _Bits):
            return jax.lax.bitcast_convert_type(residual.bits, jnp.bfloat16)
        return residual

    return jax.tree.map(unpack, packed, is_leaf=lambda r: isinstance(r, (_Weight, _Bits)))
