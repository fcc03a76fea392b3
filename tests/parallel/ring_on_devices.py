"""Attend over sequences that emulated devices share, and on one device, and save what they give.

Run by `test_ring_attention.py`, since the number of emulated devices is fixed when JAX starts.
"""

import functools
import json
import sys
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, PartitionSpec

from fugaku_jax.kernels.attention import attention
from fugaku_jax.kernels.dropout import Dropout
from fugaku_jax.parallel import sequence_cut
from fugaku_jax.parallel.ring_attention import ring_attention

BATCH, HEADS, HEAD_DIM = 2, 2, 4
RATE = 0.3


def set_mesh(x: int, y: int, b: int, z: int) -> None:
    """Take as many devices as needed: context along x and y, tensor along b, idle along z."""
    shape = (x, y, b, z)
    devices = jax.devices()[: np.prod(shape)]
    axis_types = (AxisType.Explicit,) * 4
    jax.set_mesh(jax.make_mesh(shape, ("x", "y", "b", "z"), axis_types, devices=devices))


def ring_over(*axes: str) -> Callable[..., jax.Array]:
    """Return attention over a sequence that these axes share."""
    return lambda q, k, v, *given: ring_attention(q, k, v, axes, *given)


def compare(case: dict) -> dict[str, np.ndarray]:
    """Return output and gradients by one device and by the devices of a case.

    Only the last ones along z attend, as a branch tells them; the others have zeros.
    """
    x, y, _, z = case["mesh"]
    length = case["positions"] * x * y
    random = np.random.default_rng(0)
    set_mesh(1, 1, 1, 1)
    operands = random.normal(size=(4, BATCH, length, HEADS, HEAD_DIM))
    q, k, v, upstream = (jnp.asarray(x, case.get("dtype", "float32")) for x in operands)
    segments = None
    if case.get("segments"):
        starts = random.random((BATCH, length)) < 2 / length
        segments = np.cumsum(starts, axis=1, dtype=np.int32)
    key = np.asarray([1, 2], np.uint32)

    def with_gradient(attend, q, k, v, upstream, segments, key):
        masks = None
        if case.get("dropout"):
            masks = Dropout(jax.random.wrap_key_data(key), length, first_row=5)
        out, pullback = jax.vjp(lambda q, k, v: attend(q, k, v, segments, masks, RATE), q, k, v)
        return out, *pullback(upstream)

    def on_devices(*given):
        attend = functools.partial(with_gradient, ring_over("x", "y"))
        is_last = jax.lax.axis_index("z") == z - 1
        idle = lambda *given: tuple(jnp.zeros_like(x) for x in given[:4])  # noqa: E731
        found = attend(*given) if z == 1 else jax.lax.cond(is_last, attend, idle, *given)
        return jax.tree.map(lambda x: x[None], found)

    one = jax.jit(functools.partial(with_gradient, attention))(q, k, v, upstream, segments, key)
    set_mesh(*case["mesh"])
    split, everywhere = PartitionSpec(None, ("x", "y")), PartitionSpec()
    mapped = jax.shard_map(
        on_devices,
        in_specs=(split, split, split, split, everywhere, everywhere),
        out_specs=PartitionSpec("z", *split),
        axis_names={"x", "y", "z"},
        check_vma=False,
    )
    put = functools.partial(jax.device_put, device=PartitionSpec(None, ("x", "y"), "b"))
    placed = [put(np.asarray(x)) for x in (q, k, v, upstream)]
    many = jax.jit(mapped)(*placed, segments, key)
    assert all(jax.typeof(x).sharding.spec[3] == "b" for x in many)
    found = {}
    for name, a, b in zip(("out", "d_q", "d_k", "d_v"), one, many, strict=True):
        *idle, attended = np.float32(b)
        assert not np.any(idle)
        found |= {f"one/{name}": np.float32(a), f"many/{name}": attended}
    return found


def temporary_bytes(own: int) -> np.ndarray:
    """Return what a device needs beside operands and results, so many positions being its own."""
    set_mesh(2, 1, 1, 1)
    shape = (1, 2 * own, 1, HEAD_DIM)

    def function(q, k, v):
        return jax.grad(lambda *x: jnp.sum(ring_over("x")(*x)), (0, 1, 2))(q, k, v)

    split = PartitionSpec(None, "x")
    mapped = jax.shard_map(
        function, in_specs=split, out_specs=split, axis_names={"x"}, check_vma=False
    )
    operands = [jax.device_put(np.zeros(shape, np.float32), split)] * 3
    # As in a run.
    compiled = jax.jit(mapped).lower(*operands).compile({"xla_cpu_use_fusion_emitters": True})
    return np.asarray(compiled.memory_analysis().temp_size_in_bytes)


def main() -> None:
    """Run the cases and the rest."""
    sequence_cut.MAX_BLOCK = 4  # so that short sequences have several blocks
    saved = {}
    for name, case in json.loads(sys.argv[2]).items():
        saved |= {f"{name}/{key}": value for key, value in compare(case).items()}
    sequence_cut.MAX_BLOCK = 64
    saved |= {f"bytes/{own}": temporary_bytes(own) for own in (1024, 2048)}
    np.savez(sys.argv[1], **saved)


main()
