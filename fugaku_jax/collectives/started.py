"""Sums over the torus that are started, go on while XLA computes, and are done with later.

XLA may copy, move or use again whatever memory an array has, and a loop's carry most of all; so
what is under way lies in the engine's memory. `start` copies its arrays there, side by side as one
message, and returns a ticket, a number that may be carried anywhere; `done` copies the result out,
and what depends on it goes on when it is there. No thread of XLA's waits. A ticket of `nothing`
gives zeros, so a loop may be done in each turn with what the turn before has started.

The same call may be under way several times, as a loop starts it again: turns of a loop follow one
another everywhere, so how often it came tells which belong together.
"""

import ctypes
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import mlir
from jax.sharding import PartitionSpec
from jaxtyping import Array, Shaped, UInt32

from fugaku_jax.collectives import native
from fugaku_jax.collectives.links import Links
from fugaku_jax.collectives.sums import Placed, on_local_arrays, splits_of, to_blocks
from fugaku_jax.collectives.torus import attributes_of_call, blocks_plan, check_type, long_axes


@partial(jax.tree_util.register_dataclass, data_fields=["ticket"], meta_fields=["results", "specs"])
@dataclass(frozen=True)
class Started:
    """Collectives that are under way together, as one message."""

    ticket: UInt32[Array, "2"]
    """Which; only the process that started it can be done with it."""
    results: tuple[tuple[tuple[int, ...], Any], ...]
    """Shape and type of each result on this device."""
    specs: tuple[PartitionSpec, ...]
    """How Explicit axes split each."""


def start_all_reduce(
    links: Links, arrays: Sequence[Shaped[Array, "..."]], axes: tuple[str, ...]
) -> Started:
    """Start to sum arrays over all of the axes.

    Args:
        links: of this process.
        arrays: this device's summands, all of one type that `torus.all_reduce` takes.
        axes: manual mesh axes.

    Raises:
        ValueError: an array is of another type than the first, or of one that is not summed; or no
            axis has more than one device.
    """
    _check(arrays)
    return _start(links, "all_reduce", arrays, long_axes(links, axes), 1, lambda xs: xs)


def start_reduce_scatter(
    links: Links, arrays: Sequence[Shaped[Array, "..."]], placed: Sequence[Placed]
) -> Started:
    """Start to sum arrays; each device receives its shards, as of `torus.reduce_scatter`.

    Args:
        links: of this process.
        arrays: this device's summands, all of one type.
        placed: of each; all along the same axes, named in the same order.

    Raises:
        ValueError: as of `start_all_reduce`; or a dimension cannot be divided by its axes.
    """
    _check(arrays)
    along = long_axes(links, [axis for axis, _ in placed[0]])
    rows = math.prod(dict(links.axes)[axis] for axis in along)
    shards = []
    for x, places in zip(arrays, placed, strict=True):
        splits = splits_of(x, places)
        if any(size % split for size, split in zip(x.shape, splits, strict=True)):
            raise ValueError(f"reduce_scatter: {x.shape} is not divisible by {splits}.")
        shards.append(splits)

    def blocks(arrays: Sequence[Array]) -> list[Array]:
        cut = []
        for x, places, splits in zip(arrays, placed, shards, strict=True):
            shard = tuple(size // split for size, split in zip(x.shape, splits, strict=True))
            cut.append(to_blocks(x, shard, places, blocks_plan(links, places)))
        return cut

    return _start(links, "reduce_scatter", arrays, along, rows, blocks)


def done(started: Started, after: Started) -> list[Shaped[Array, "..."]]:
    """Return the results of what was started, when they are there.

    Args:
        started: what is asked for, once.
        after: what must have been started before anybody waits; `started` itself if nothing else.
    """

    def take(ticket: Array, after: Array) -> tuple[Array, ...]:
        return tuple(_done.bind(ticket, after, results=results))

    results = started.results
    return list(on_local_arrays(take, started.ticket, after.ticket, specs=started.specs))


def nothing(like: Started) -> Started:
    """Return what gives zeros when it is done with.

    Args:
        like: what it is to look like, or the type of that.
    """
    return Started(jnp.zeros(2, jnp.uint32), like.results, like.specs)


class Journey(NamedTuple):
    """When what happened to something that was started, in seconds of `time.monotonic`."""

    started: float
    ended: float
    """It had arrived, or failed."""
    asked: float
    """Its result was asked for."""
    given: float
    bytes: float
    """Of the arrays."""


def record(on: bool) -> None:
    """Begin to note journeys anew, or end it."""
    native.functions().fugaku_torus_record(ctypes.c_int(on))


def recorded() -> list[Journey]:
    """Return the journeys that were noted and are over."""
    read = native.functions().fugaku_torus_recorded
    read.restype = ctypes.c_int64
    count = read(None, ctypes.c_int64(0))
    numbers = (ctypes.c_double * (len(Journey._fields) * count))()
    read(numbers, ctypes.c_int64(count))
    return [Journey(*each) for each in np.array(numbers).reshape(count, -1).tolist()]


def _check(arrays: Sequence[Array]) -> None:
    for x in arrays:
        check_type(x)
        if x.dtype != arrays[0].dtype:
            raise ValueError(f"Sums that start together are of one type, not {x.dtype} too.")


def _start(
    links: Links, kind: str, arrays: Sequence[Array], axes: tuple[str, ...], rows: int, cut: Any
) -> Started:
    if not axes:
        raise ValueError("There is nothing to start: no axis has more than one device.")
    results: list[tuple[tuple[int, ...], Any]] = []

    def begin(*arrays: Array) -> tuple[Array]:
        inputs = cut(arrays)
        results[:] = [(x.shape[1:] if rows > 1 else x.shape, x.dtype) for x in inputs]
        told = {"links": links, "kind": kind, "axes": axes, "rows": rows}
        return (_start_call.bind(*inputs, **told),)

    specs = tuple(jax.typeof(x).sharding.spec for x in arrays)
    (ticket,) = on_local_arrays(begin, *arrays, specs=(PartitionSpec(),))
    return Started(ticket, tuple(results), specs)


_start_call = Primitive("torus_start")
_done = Primitive("torus_done")
_done.multiple_results = True


@_start_call.def_abstract_eval
def _ticket(x: Any, *_: Any, **__: Any) -> Any:
    return x.update(shape=(2,), dtype=np.dtype(np.uint32))


@_done.def_abstract_eval
def _results(ticket: Any, _: Any, *, results: Any) -> Any:
    return [ticket.update(shape=shape, dtype=np.dtype(dtype)) for shape, dtype in results]


def _lower_start(
    context: mlir.LoweringRuleContext, *arrays: Any, links: Links, kind: str, axes: Any, rows: int
) -> Any:
    avals: Any = context.avals_in
    size, itemsize = sum(x.size for x in avals), avals[0].dtype.itemsize
    told = attributes_of_call(context, links, kind, axes, size // rows, itemsize)
    told |= {"rows": np.int64(rows), "result_bytes": np.int64(size // rows * itemsize)}
    rule = jax.ffi.ffi_lowering(native.target("fugaku_torus_start"), has_side_effect=True)
    return rule(context, *arrays, **told)


def _lower_done(context: mlir.LoweringRuleContext, ticket: Any, after: Any, **_: Any) -> Any:
    rule = jax.ffi.ffi_lowering(native.target("fugaku_torus_done"), has_side_effect=True)
    return rule(context, ticket, after, rows=np.int64(1))


# Two that look alike are not the same one.
mlir.register_lowering(_start_call, _lower_start, platform="cpu", cacheable=False)
mlir.register_lowering(_done, _lower_done, platform="cpu", cacheable=False)
