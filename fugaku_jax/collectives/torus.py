"""Sums, scatters and gathers that drive all links of a node at once: a custom call of XLA's.

They do what those of `sums.py` do, and their shards lie alike. `routes.py` says which part travels
how; chunks of it follow one another through the links, so that one is added while others travel.
The order of a sum depends on nothing but the mesh and the array's shape, and all members end up
with the same bits. bf16 and fp16 are added and sent in fp32, and rounded once. XLA's threads wait
for nothing here: a call returns at once, and what depends on it goes on when it has ended.

Which calls of two processes belong together is told by the module's name, a number that JAX gives
each call of a module, and how often it came: calls may be under way at the same time and need not
begin in the same order everywhere.
"""

import math
import zlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import mlir
from jaxtyping import Array, Shaped

from fugaku_jax.collectives import native
from fugaku_jax.collectives.links import Links
from fugaku_jax.collectives.phases import Plan, make_plan
from fugaku_jax.collectives.sums import Placed, from_blocks, on_local_array, splits_of, to_blocks

_SUMMED = (jnp.float32, jnp.bfloat16, jnp.float16, jnp.int32, jnp.uint32)


def all_reduce(links: Links, x: Shaped[Array, "*x"], axes: tuple[str, ...]) -> Shaped[Array, "*x"]:
    """Sum over all of the axes; every device along them receives the whole sum.

    Args:
        links: of this process.
        x: this device's summand: fp32, bf16, fp16, or whole numbers of 32 bits.
        axes: manual mesh axes.

    Raises:
        ValueError: it is of another type.
    """
    check_type(x)
    along = long_axes(links, axes)

    def reduce(x: Array) -> Array:
        return _call(links, "all_reduce", x.reshape(-1), along, x.size).reshape(x.shape)

    return on_local_array(reduce, x) if along else x


def reduce_scatter(links: Links, x: Shaped[Array, "..."], placed: Placed) -> Shaped[Array, "..."]:
    """Sum over all of the axes; each device receives its shard, as in `sums.reduce_scatter`.

    Raises:
        ValueError: a dimension cannot be divided by its axes, or `x` is of another type than
            `all_reduce` takes.
    """
    check_type(x)
    plan, along = blocks_plan(links, placed), long_axes(links, [axis for axis, _ in placed])
    splits = splits_of(x, placed)
    if any(size % split for size, split in zip(x.shape, splits, strict=True)):
        raise ValueError(f"reduce_scatter: {x.shape} is not divisible by {splits}.")

    def reduce(x: Array) -> Array:
        shard = tuple(size // split for size, split in zip(x.shape, splits, strict=True))
        blocks = to_blocks(x, shard, placed, plan).reshape(-1)
        return _call(links, "reduce_scatter", blocks, along, math.prod(shard)).reshape(shard)

    return on_local_array(reduce, x) if along else x


def all_gather(links: Links, x: Shaped[Array, "..."], placed: Placed) -> Shaped[Array, "..."]:
    """Join the shards of all devices, as `sums.all_gather` does."""
    plan, along = blocks_plan(links, placed), long_axes(links, [axis for axis, _ in placed])
    splits = splits_of(x, placed)

    def gather(x: Array) -> Array:
        whole = tuple(size * split for size, split in zip(x.shape, splits, strict=True))
        blocks = _call(links, "all_gather", x.reshape(-1), along, math.prod(whole))
        return from_blocks(blocks.reshape(-1, *x.shape), whole, placed, plan)

    return on_local_array(gather, x) if along else x


def check_type(x: Array) -> None:
    """Raise a ValueError if an array is of a type that is not summed here."""
    if x.dtype not in _SUMMED:
        raise ValueError(f"Sums over the torus are not of {x.dtype}; make it float32.")


def blocks_plan(links: Links, placed: Placed) -> Plan:
    """Return how the blocks of a scatter or a gather are numbered."""
    sizes = dict(links.axes)
    return make_plan(tuple((axis, sizes.get(axis, 1)) for axis, _ in placed))


def long_axes(links: Links, axes: Sequence[str]) -> tuple[str, ...]:
    """Return those axes that have more than one device."""
    return tuple(axis for axis in axes if axis in dict(links.axes))


_torus = Primitive("torus")


def _call(links: Links, kind: str, x: Array, axes: tuple[str, ...], length: int) -> Array:
    """Bind the custom call to a vector; its result is one of this length."""
    return _torus.bind(x, links=links, kind=kind, axes=axes, length=length)


@_torus.def_abstract_eval
def _result(x: Any, *, length: int, **_: Any) -> Any:
    return x.update(shape=(length,))


def _lower(
    context: mlir.LoweringRuleContext,
    x: Any,
    *,
    links: Links,
    kind: str,
    axes: tuple[str, ...],
    **_: Any,
) -> Any:
    avals: Any = (*context.avals_in, *context.avals_out)
    before, after = (jax.ShapeDtypeStruct(x.shape, x.dtype) for x in avals)
    size, column = before.dtype.itemsize, min(before.size, after.size)
    if kind == "all_gather":  # its elements are bytes
        size, column = 1, column * size
    told = attributes_of_call(context, links, kind, axes, column, size)
    return jax.ffi.ffi_lowering(native.target("fugaku_torus"))(context, x, **told)


def attributes_of_call(
    context: mlir.LoweringRuleContext,
    links: Links,
    kind: str,
    axes: tuple[str, ...],
    length: int,
    element_bytes: int,
) -> dict[str, Any]:
    """Return what a custom call is told: `Links.attributes`, and a tag that no other call has."""
    module: Any = context.module_context
    name = str(module.module.operation.attributes["sym_name"])
    told: dict[str, Any] = links.attributes(kind, axes, length, element_bytes)
    told["tag"] = zlib.crc32(name.encode()) << 16 | module.new_channel()
    attributes = {key: np.array(value, np.int64) for key, value in told.items()}
    scalars = {key: np.int64(value) for key, value in told.items() if isinstance(value, int)}
    return attributes | scalars


# Two calls that look alike are not the same one, so nothing may be lowered once for both.
mlir.register_lowering(_torus, _lower, platform="cpu", cacheable=False)
