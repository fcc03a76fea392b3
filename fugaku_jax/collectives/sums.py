"""Sums and gathers over several axes of a torus, inside a `jax.shard_map` manual over those axes.

One collective takes all axes together, if no more than `LARGEST_GROUP` devices meet in it.
Otherwise there is a reduce-scatter axis by axis, and then an all-gather in the reverse order; an
axis longer than that is walked in groups of those that share all but one digit of their coordinate
along it.

Where there are fewer elements than devices, as of a number, they are summed whole phase by phase.
Sums of bf16 and fp16 are taken in fp32 and rounded once, to the input's type. Mesh axes that are
still Explicit are made manual here (JAX scatters no array that an Explicit axis splits); no data
moves for that.

These are made for a `shard_map` with `check_vma=False`. With `check_vma=True` the values are right
but the types say too little: a sum varies over whatever its summand varied over, so JAX refuses
`out_specs` that leave the summed axes out. None of this is meant to be differentiated.
"""

import math
from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, PartitionSpec
from jaxtyping import Array, Shaped

from fugaku_jax.collectives.phases import Plan, make_plan

Placed: TypeAlias = tuple[tuple[str, int], ...]
"""(mesh axis, dimension that it splits) pairs."""


def all_reduce(
    x: Shaped[Array, "*x"],
    axes: tuple[str, ...],
) -> Shaped[Array, "*x"]:
    """Sum over all of the axes; every device along them receives the whole sum.

    Args:
        x: this device's summand, of any shape.
        axes: manual mesh axes, in the order in which they are walked.

    Raises:
        ValueError: an axis is not manual here, or is named twice.
    """
    plan = plan_of(axes)
    if not plan.phases:
        return x

    def reduce(x: Array) -> Array:
        devices = math.prod(plan.sizes)
        if len(plan.phases) == 1 or x.size < devices:
            whole = _widen(x)
            for phase in plan.phases:
                whole = jax.lax.psum(whole, phase.axes, axis_index_groups=phase.groups)
            return whole.astype(x.dtype)
        share = -(-x.size // devices)
        buckets = jnp.pad(_widen(x).reshape(-1), (0, share * devices - x.size))
        # Rounded before they are gathered, so that bf16 travels as bf16.
        summed = _scatter(buckets.reshape(*plan.sizes, share), plan).astype(x.dtype)
        return _gather(summed, plan).reshape(-1)[: x.size].reshape(x.shape)

    return on_local_array(reduce, x)


def reduce_scatter(
    x: Shaped[Array, "..."],
    placed: Placed,
) -> Shaped[Array, "..."]:
    """Sum over all of the axes; each device receives its shard of the sum.

    Args:
        x: this device's summand.
        placed: (mesh axis, dimension of `x` that it splits) pairs. A dimension with several axes is
            split as by `PartitionSpec((first, second))`: the one named first is the outermost.

    Returns:
        the shard: dimension d is shorter by the product of the sizes of its axes.

    Raises:
        ValueError: as `all_reduce`; or a dimension does not exist, cannot be divided by its axes,
            or is split by an Explicit axis as well.
    """
    plan = plan_of(tuple(axis for axis, _ in placed))
    splits = splits_of(x, placed)
    for dimension, split in enumerate(splits):
        if x.shape[dimension] % split:
            raise ValueError(
                f"reduce_scatter: dimension {dimension} of {x.shape} is not divisible by {split}, "
                f"the devices along {[a for a, d in placed if d == dimension]}; pad it, or place "
                "the axes on another."
            )

    def reduce(x: Array) -> Array:
        shard = tuple(size // split for size, split in zip(x.shape, splits, strict=True))
        blocks = to_blocks(_widen(x), shard, placed, plan)
        return _scatter(blocks.reshape(*plan.sizes, *shard), plan).astype(x.dtype)

    return on_local_array(reduce, x) if plan.phases else x


def all_gather(
    x: Shaped[Array, "..."],
    placed: Placed,
) -> Shaped[Array, "..."]:
    """Join the shards of all devices: the layout of `reduce_scatter` undone.

    Args:
        x: this device's shard.
        placed: as in `reduce_scatter`.

    Returns:
        the whole array: dimension d is longer by the product of the sizes of its axes.

    Raises:
        ValueError: as `all_reduce`; or a dimension does not exist, or is split by an Explicit axis
            as well.
    """
    plan = plan_of(tuple(axis for axis, _ in placed))
    splits = splits_of(x, placed)

    def gather(x: Array) -> Array:
        whole = tuple(size * split for size, split in zip(x.shape, splits, strict=True))
        blocks = _gather(x, plan).reshape(math.prod(plan.sizes), *x.shape)
        return from_blocks(blocks, whole, placed, plan)

    return on_local_array(gather, x) if plan.phases else x


def plan_of(axes: tuple[str, ...]) -> Plan:
    """Return the phases over axes of the mesh that is active; errors as of `all_reduce`."""
    mesh = jax.sharding.get_abstract_mesh()
    kinds = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
    for axis in axes:
        # An Explicit axis would be made manual below, and shards be summed with each other.
        if kinds.get(axis) != AxisType.Manual:
            raise ValueError(f"Axis {axis} is not manual here; name it in the shard_map around.")
    if len(set(axes)) < len(axes):
        raise ValueError(f"Axes {axes}: each may appear only once.")
    return make_plan(tuple((axis, mesh.shape[axis]) for axis in axes))


def splits_of(x: Array, placed: Placed) -> list[int]:
    """Return into how many shards each dimension is split."""
    explicit = tuple(jax.typeof(x).sharding.spec) + (None,) * x.ndim
    splits = [1] * x.ndim
    for axis, dimension in placed:
        if not 0 <= dimension < x.ndim:
            raise ValueError(f"Axis {axis} is placed on dimension {dimension} of {x.shape}.")
        if explicit[dimension]:
            # A device would scatter its own part of the Explicit axis, which `out_specs` of the
            # map around cannot say: there manual axes are the outer ones.
            raise ValueError(
                f"Axis {axis} is placed on dimension {dimension}, which the Explicit "
                f"{explicit[dimension]} splits too; place it on another, or make that one manual."
            )
        splits[dimension] *= jax.lax.axis_size(axis)
    return splits


def _widen(x: Array) -> Array:
    """Return what is summed: bf16, fp16 and narrower in fp32, all else as it is."""
    narrow = jnp.issubdtype(x.dtype, jnp.floating) and x.dtype.itemsize < 4
    return x.astype(jnp.float32) if narrow else x


def on_local_array(function: Callable[[Array], Array], x: Array) -> Array:
    """Apply a function to what each device holds, Explicit axes being made manual for it."""
    (found,) = on_local_arrays(lambda x: (function(x),), x, specs=(jax.typeof(x).sharding.spec,))
    return found


def on_local_arrays(
    function: Callable[..., tuple[Array, ...]], *arrays: Array, specs: tuple[PartitionSpec, ...]
) -> tuple[Array, ...]:
    """Do so with several arrays.

    Args:
        function: of what a device holds of the arrays.
        arrays: whose types say how Explicit axes split them.
        specs: how these split each of the results.
    """
    mesh = jax.sharding.get_abstract_mesh()
    kinds = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
    explicit = {axis for axis, kind in kinds.items() if kind == AxisType.Explicit}
    if not explicit:
        return function(*arrays)
    mapped = jax.shard_map(
        function,
        in_specs=tuple(jax.typeof(x).sharding.spec for x in arrays),
        out_specs=specs,
        axis_names=explicit,
        check_vma=False,
    )
    # Where types are checked this undoes the inner map's claim that nothing varies.
    manual = tuple(axis for axis, kind in kinds.items() if kind == AxisType.Manual)
    return jax.tree.map(lambda x: jax.lax.pcast(x, manual, to="varying"), mapped(*arrays))


def _scatter(buckets: Array, plan: Plan) -> Array:
    """Reduce-scatter the leading dimensions, one a phase."""
    for phase in plan.phases:
        buckets = jax.lax.psum_scatter(buckets, phase.axes, axis_index_groups=phase.groups)
    return buckets


def _gather(share: Array, plan: Plan) -> Array:
    """All-gather to what `_scatter` had."""
    for phase in reversed(plan.phases):
        share = jax.lax.all_gather(share, phase.axes, axis_index_groups=phase.groups)
    return share


def _split(
    shard: tuple[int, ...], placed: Placed, plan: Plan
) -> tuple[list[int], list[int], list[int]]:
    """Split each dimension of the whole into its axes' digits, outermost first, and the shard's.

    Returns:
        the sizes; where among them the plan's digits stand, in the plan's order; and where the
        shard's dimensions stand.
    """
    sizes: list[int] = []
    place = {}
    rest = []
    for dimension, size in enumerate(shard):
        for axis in [axis for axis, on in placed if on == dimension]:
            for digit in plan.digits:
                if digit.axis == axis:
                    place[digit] = len(sizes)
                    sizes.append(digit.size)
        rest.append(len(sizes))
        sizes.append(size)
    return sizes, [place[digit] for digit in plan.digits], rest


def to_blocks(x: Array, shard: tuple[int, ...], placed: Placed, plan: Plan) -> Array:
    """Cut an array into the shards of all devices: [devices, *shard], in the plan's digits."""
    sizes, digits, rest = _split(shard, placed, plan)
    return x.reshape(sizes).transpose(digits + rest).reshape(math.prod(plan.sizes), *shard)


def from_blocks(blocks: Array, whole: tuple[int, ...], placed: Placed, plan: Plan) -> Array:
    """Join what `to_blocks` cuts."""
    sizes, digits, rest = _split(blocks.shape[1:], placed, plan)
    order = digits + rest
    split = blocks.reshape([sizes[place] for place in order])
    return split.transpose(np.argsort(order)).reshape(whole)
