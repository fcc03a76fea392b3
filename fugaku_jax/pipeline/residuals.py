"""What a layer keeps for its backward pass, as arrays that may lie in buffers.

XLA's CPU backend converts whole stacks of bf16 to fp32 before it slices them; bits it leaves alone.
"""

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree, Shaped

Pullback = PyTree[Shaped[Array, "..."]]
"""As `jax.vjp` gives it: a function of `dy` whose leaves are the residuals."""
Packed = PyTree[Shaped[Array, "..."]]
"""A pullback whose leaves may lie in buffers."""


@jax.tree_util.register_static
@dataclass(frozen=True)
class _Weight:
    """Stands for a residual that is a weight itself and need not be kept twice."""

    number: int


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Bits:
    """The bits of a bf16 residual, or of a key, as unsigned integers."""

    # JAX rebuilds the object around leaves of any kind.
    bits: Any
    is_key: bool = field(metadata={"static": True})


def pack(pullback: Pullback, weights: PyTree[Float[Array, "..."]]) -> Packed:
    """Turn what a layer's pullback holds into bits, and weights into their numbers.

    Args:
        pullback: of a layer, with `x` `[B, T, D]` and `weights` as its arguments.
        weights: the arrays, not copies of them, that the pullback was made with.
    """
    numbers = {id(weight): n for n, weight in enumerate(jax.tree.leaves(weights))}

    def reduce(residual: Array) -> Any:
        if id(residual) in numbers:
            return _Weight(numbers[id(residual)])
        return to_bits(residual)

    return jax.tree.map(reduce, pullback)


def unpack(packed: Packed, weights: PyTree[Shaped[Array, "..."]]) -> Any:
    """Undo `pack`: return the pullback, a function of `dy` `[B, T, D]`."""
    leaves = jax.tree.leaves(weights)

    def restore(residual: Any) -> Array:
        if isinstance(residual, _Weight):
            return leaves[residual.number]
        if isinstance(residual, _Bits) and residual.is_key:
            return jax.random.wrap_key_data(residual.bits)
        if isinstance(residual, _Bits):
            return jax.lax.bitcast_convert_type(residual.bits, jnp.bfloat16)
        return residual

    return jax.tree.map(restore, packed, is_leaf=lambda r: isinstance(r, (_Weight, _Bits)))


def to_bits(array: Shaped[Array, "..."]) -> Any:
    """Turn bf16 or a key into bits, of the same shape; leave other arrays as they are."""
    if jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key):
        return _Bits(jax.random.key_data(array), is_key=True)
    if array.dtype == jnp.bfloat16:
        return _Bits(jax.lax.bitcast_convert_type(array, jnp.uint16), is_key=False)
    return array


def from_bits(
    bits: list[Shaped[Array, "..."]], types: list[jax.ShapeDtypeStruct]
) -> list[Shaped[Array, "..."]]:
    """Undo `to_bits` for arrays of known types."""
    structure = jax.tree.structure([jax.eval_shape(to_bits, t) for t in types])
    return unpack(jax.tree.unflatten(structure, bits), {})
