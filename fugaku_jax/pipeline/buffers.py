"""Buffers: arrays with a leading axis of rows, which are read and written one at a time."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Int, PyTree, Shaped

Index = Int[Array, ""] | int
"""Number of a row."""


def empty(rows: int, like: Any) -> Shaped[Array, "R ..."]:
    """Return rows of zeros.

    Args:
        like: a row, or its type: anything with a shape, a dtype and a sharding.
    """
    # Nothing but manual axes gives no sharding.
    spec = () if like.sharding is None else like.sharding.spec
    shape = (rows, *like.shape)
    return jnp.zeros(shape, like.dtype, out_sharding=PartitionSpec(None, *spec))


def read(buffer: PyTree[Shaped[Array, "_ ..."]], row: Index) -> PyTree[Shaped[Array, "..."]]:
    """Return a row of every leaf, without the leading axis."""
    return jax.tree.map(lambda b: jax.lax.dynamic_index_in_dim(b, row, keepdims=False), buffer)


def write(
    buffer: PyTree[Shaped[Array, "_ ..."]], value: PyTree[Shaped[Array, "..."]], row: Index
) -> PyTree[Shaped[Array, "_ ..."]]:
    """Return the buffers with a row of every leaf replaced."""
    return jax.tree.map(
        lambda b, v: jax.lax.dynamic_update_index_in_dim(b, v, row, 0), buffer, value
    )


def add(
    buffer: PyTree[Shaped[Array, "_ ..."]], value: PyTree[Shaped[Array, "..."]], row: Index
) -> PyTree[Shaped[Array, "_ ..."]]:
    """Return the buffers with a value added to a row of every leaf."""
    return write(buffer, jax.tree.map(jnp.add, read(buffer, row), value), row)
