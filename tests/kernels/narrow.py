"""What tests have to know of products in narrow arithmetic."""

import jax.numpy as jnp
from jax.sharding import PartitionSpec

from fugaku_jax.kernels.matmul import einsum


def in_fp16(dtype: str) -> bool:
    """Whether operands of this type are multiplied in fp16, which 300 x 300 is beyond."""
    x = jnp.full((1, 1), 300, dtype)
    return bool(jnp.isinf(einsum("mk,nk->mn", x, x, PartitionSpec(), "float32"))[0, 0])
