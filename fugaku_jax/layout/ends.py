"""Weights that only the first and the last stage of a pipeline hold: those outside of the layers.

The first stage embeds by them, and the last computes logits by the same table. Both hold them, and
update them alike from the sum of both gradients. The stages between neither read nor change them,
and not a byte of them passes there.

An array says so by its shape: dimension 0 has a *place* for each stage, one after the other, and
is split by the axes of the stages. The weight stands in the first place and again in the last. The
zeros between have gradients of zero, and all optimizers leave them as they are. Such an array is
not replicated over stages, so nobody takes the part of one for another's. A copy on all stages,
declared as one but up to date on two of them only, would be saved, compared and restored from
whichever device JAX finds first. A device holds no more than it would of such a copy.

A checkpoint has the weight once, as the model has it: `whole_of_ends` gives that, and `at_ends`
undoes it.
"""

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
from jax.sharding import reshard
from jaxtyping import Array, Bool, Float, Shaped

from fugaku_jax.layout.placement import Placement


def at_ends(
    x: Shaped[Array, "*whole"], placement: Placement, *, state: bool
) -> Shaped[Array, "*stored"]:
    """Put an array where its placement says; of the stages at the ends, each has it in its place.

    Args:
        x: the array as the model has it, on the mesh that is active, outside of any `shard_map`.
        placement: of the weight that it is, or is the optimizer's state of.
        state: whether it is the latter.
    """
    spec = on_all_stages(placement).spec(state=state)
    x = reshard(x, spec)
    if not placement.ends:
        return x
    return jax.shard_map(
        lambda x: jnp.where(is_end(placement.ends), x, jnp.zeros_like(x)),
        in_specs=spec,
        out_specs=placement.spec(state=state),
        check_vma=False,
    )(x)


def whole_of_ends(
    x: Shaped[Array, "*stored"], placement: Placement, *, state: bool
) -> Shaped[Array, "*whole"]:
    """Return the array as the model has it, the same on all stages; arguments as of `at_ends`."""
    if not placement.ends:
        return x

    def first(x: Array) -> Array:
        is_first = jax.lax.axis_index(placement.ends) == 0
        return jax.lax.psum(jnp.where(is_first, x, jnp.zeros_like(x)), placement.ends)

    return jax.shard_map(
        first,
        in_specs=placement.spec(state=state),
        out_specs=on_all_stages(placement).spec(state=state),
        check_vma=False,
    )(x)


def on_all_stages(placement: Placement) -> Placement:
    """Return where a weight would lie if all stages held it."""
    weight = tuple((axis, on) for axis, on in placement.weight if axis not in placement.ends)
    return replace(placement, weight=weight, ends=())


def is_end(axes: tuple[str, ...]) -> Bool[Array, ""]:
    """Tell whether this device's stage is the first or the last; inside a `shard_map`."""
    stage = jax.lax.axis_index(axes)
    return (stage == 0) | (stage == jax.lax.axis_size(axes) - 1)


def sum_of_ends(x: Float[Array, "*x"], axes: tuple[str, ...]) -> Float[Array, "*x"]:
    """Sum over the first and the last stage alone; these two must call it, others may."""
    last = math.prod(jax.lax.axis_size(axis) for axis in axes) - 1
    alone = [[stage] for stage in range(1, last)]
    return jax.lax.psum(x, axes, axis_index_groups=[[0, last], *alone])
