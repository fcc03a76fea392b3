"""What tests have to know of products in narrow arithmetic."""

import functools

import jax.numpy as jnp
from jax.sharding import PartitionSpec

from fugaku_jax.kernels import native
from fugaku_jax.kernels.matmul import einsum


def in_fp16(dtype: str) -> bool:
    """Whether operands of this type are multiplied in fp16, which 300 x 300 is beyond."""
    return _overflows(dtype, native.loaded() if native.enabled() else None)


@functools.cache
def _overflows(dtype: str, library: str | None) -> bool:  # noqa: ARG001
    x = jnp.full((1, 1), 300, dtype)
    return bool(jnp.isinf(einsum("mk,nk->mn", x, x, PartitionSpec(), "float32"))[0, 0])
