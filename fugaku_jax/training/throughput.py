"""How fast a step could be: what the processors of a run can do at most."""

import socket
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from fugaku_jax.cluster.decisions import decided
from fugaku_jax.kernels import native
from fugaku_jax.processor import available_cores
from fugaku_jax.training.precision import COMPUTE_DTYPES, Precision

ENOUGH_SECONDS = 0.005
"""Work that takes this long is timed well; more of it would only take longer."""
REPEATS = 10


@dataclass(frozen=True)
class Peak:
    """What all processors of a run together can do at most."""

    flops: float
    """Operations a second; a multiplication and the addition of its result are two."""
    of: str
    """What was measured, `fp32 multiply-adds` for instance."""


def measure_peak(precision: Precision) -> Peak:
    """Measure what the processors of a run can do at most in the precision of its products.

    With native kernels these are multiply-adds on registers, in the format that the kernels
    multiply in: fp32, but bf16 where the processor has AVX512-BF16 or AMX, and fp16 on A64FX.
    Without them it is a matrix product of XLA's, which may be far below what the processor can do.

    A core counts once, however many emulated devices or processes share it. All processes must
    call it.
    """
    with jax.set_mesh(None), jax.default_device(jax.local_devices()[0]):
        cpu = jax.default_backend() == "cpu"
        measure = multiply_adds if cpu and native.loaded() else product
        flops, of = measure(precision)
    if not cpu:
        return Peak(flops * jax.device_count(), of)
    mine = flops, socket.gethostname(), list(available_cores())
    return Peak(decided("peak", mine, together), of)


def together(found: Iterable[tuple[float, str, list[int]]]) -> float:
    """Add up what processes measured, each on its cores; those that several share count once.

    Args:
        found: of each process the operations a second, the name of its host, and its cores.
    """
    cores = {(host, core): flops / len(own) for flops, host, own in found for core in own}
    return sum(cores.values())


def multiply_adds(precision: Precision) -> tuple[float, str]:
    """Measure multiply-adds on registers, on all cores of this process: a second, and which."""
    like = jnp.zeros(1, COMPUTE_DTYPES[precision])
    types = [
        jax.ShapeDtypeStruct((len(available_cores()),), jnp.float32),
        jax.ShapeDtypeStruct((2,), jnp.int32),
    ]
    call = jax.jit(lambda rounds: native.call("fma_peak", types, like, rounds))
    rounds = 10_000
    while True:
        count = jnp.int32(rounds)
        seconds = _least_seconds(lambda count=count: call(count))
        if seconds > ENOUGH_SECONDS:
            break
        rounds *= 4
    _, (operations, bits) = call(count)
    flops = 2 * len(available_cores()) * rounds * int(operations) / seconds
    return flops, f"{precision if bits == 16 else 'fp32'} multiply-adds"


def product(precision: Precision, largest: int = 1024) -> tuple[float, str]:
    """Measure XLA's product of matrices as large as `largest` on a device: a second, and which.

    They grow only as far as the machine is fast enough for it: an emulated one takes minutes.
    """
    call = jax.jit(jnp.matmul)
    size = 128
    while True:
        one = jnp.ones((size, size), COMPUTE_DTYPES[precision])
        seconds = _least_seconds(lambda one=one: call(one, one))
        if size >= largest or seconds > 4 * ENOUGH_SECONDS:
            return 2 * size**3 / seconds, f"{precision} products of XLA"
        size *= 2


def _least_seconds(call: Callable[[], object]) -> float:
    """Time a call that was made before: another program on the same cores makes some slower."""
    jax.block_until_ready(call())
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        jax.block_until_ready(call())
        seconds.append(time.perf_counter() - start)
    return min(seconds)
