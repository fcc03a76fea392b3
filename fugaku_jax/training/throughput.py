"""How fast a step is, and how fast the machine could be."""

import time

import jax
import jax.numpy as jnp

ENOUGH_SECONDS = 0.02
"""A product that takes this long is timed well; one of the next size would take eight times it."""


def measure_matmul_flops(largest: int = 1024, repeats: int = 3) -> float:
    """Measure the operations a second of an fp32 matrix product on one device, the best of a few.

    The matrices grow up to `largest`, as far as the machine is fast enough for it: an emulated one
    would take minutes. A run's `mfu` is its model's operations a second over this, times its
    devices: the share of the time that an ideal program, which does nothing but products, would
    need.
    """
    product = jax.jit(jnp.matmul)
    size = 128
    while True:
        one = jnp.ones((size, size), jnp.float32)
        jax.block_until_ready(product(one, one))
        seconds = []
        for _ in range(repeats):
            start = time.perf_counter()
            jax.block_until_ready(product(one, one))
            seconds.append(time.perf_counter() - start)
        if size >= largest or min(seconds) > ENOUGH_SECONDS:
            return 2 * size**3 / min(seconds)
        size *= 2
