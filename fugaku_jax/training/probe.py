"""A small product that a process computes by itself: whether it is right, and how long it takes."""

import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, PartitionSpec
from jaxtyping import Array, Float

from fugaku_jax.kernels.matmul import einsum

Multiply = Callable[[Float[Array, "N K"], Float[Array, "K N"]], Float[Array, "N N"]]


def multiply(x: Float[Array, "N K"], y: Float[Array, "K N"]) -> Float[Array, "N N"]:
    """Multiply as a step does."""
    return einsum("nk,km->nm", x, y, PartitionSpec())


class Probe:
    """The product of two matrices of whole numbers that are so small that fp32 adds them exactly.

    Args:
        rows: N, of both matrices, `[N, 64]` and `[64, N]`.
        multiply: what is to be tested.
    """

    def __init__(self, rows: int, multiply: Multiply = multiply) -> None:
        # Up to 2^9 each: a sum of 64 products is below 2^24.
        numbers = np.random.default_rng(0).integers(-(2**9) + 1, 2**9, (2, rows, 64))
        self._expected = numbers[0] @ numbers[1].T
        self._mesh = jax.make_mesh(
            (1,), ("self",), (AxisType.Explicit,), devices=jax.local_devices()[:1]
        )
        with jax.set_mesh(self._mesh):
            self._arguments = jnp.float32(numbers[0]), jnp.float32(numbers[1].T)
            self._call = jax.jit(multiply).lower(*self._arguments).compile()
        self.operations = 2 * rows * rows * 64

    def wrong(self) -> int:
        """Return how many entries of the product are not what they should be."""
        return int(np.sum(np.asarray(self._product()) != self._expected))

    def seconds(self, least: float) -> float:
        """Return how long one product takes, over many that take at least so many seconds."""
        count, begun = 0, time.perf_counter()
        while (passed := time.perf_counter() - begun) < least or not count:
            self._product().block_until_ready()
            count += 1
        return passed / count

    def _product(self) -> Array:
        with jax.set_mesh(self._mesh):
            return self._call(*self._arguments)
