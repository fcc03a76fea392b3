"""Buffers: arrays with a leading axis of rows, which are read and written one at a time."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, PyTree


def empty(rows: int, like: Any) -> Array:
    """Return rows of zeros.

    Args:
        like: a row, or its type: anything with a shape, a dtype and a sharding.
    """
    # Nothing but manual axes gives no sharding.
    spec = () if like.sharding is None else like.sharding.spec
    shape = (rows, *like.shape)
    return jnp.zeros(shape, like.dtype, out_sharding=PartitionSpec(None, *spec))


def read(buffer: PyTree[Array], row: Array | int) -> Any:
    """Return a row of every leaf."""
    return jax.tree.map(lambda b: jax.lax.dynamic_index_in_dim(b, row, keepdims=False), buffer)


def write(buffer: PyTree[Array], value: PyTree[Array], row: Array | int) -> Any:
    """Return the buffers with a row of every leaf replaced."""
    return jax.tree.map(
        lambda b, v: jax.lax.dynamic_update_index_in_dim(b, v, row, 0), buffer, value
    )


def add(buffer: PyTree[Array], value: PyTree[Array], row: Array | int) -> Any:
    """Return the buffers with a value added to a row of every leaf."""
    return write(buffer, jax.tree.map(jnp.add, read(buffer, row), value), row)
