"""How fast a step is, and how fast the machine could be."""

import time

import jax
import jax.numpy as jnp


def measure_matmul_flops(size: int = 1024, repeats: int = 3) -> float:
    """Measure the operations a second of an fp32 matrix product on one device, the best of a few.

    A run's `mfu` is its model's operations a second over this, times its devices: the share of
    the time that an ideal program, which does nothing but products, would need.
    """
    one = jnp.ones((size, size), jnp.float32)
    product = jax.jit(jnp.matmul)
    jax.block_until_ready(product(one, one))
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(product(one, one))
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds)
