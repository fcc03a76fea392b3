"""Compute attention and its gradients on a mesh of all devices, and save them.

Run by `test_native_attention.py`, since the number of emulated devices is fixed when JAX starts:
`python attention_on_devices.py OUT.npz`. Eight devices share the rows of the batch by an explicit
and by a manual axis, and the heads by another explicit one.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, PartitionSpec

from fugaku_jax.kernels import native
from fugaku_jax.kernels.attention import attention, packed_attention
from fugaku_jax.kernels.dropout import Dropout

ROWS, LENGTH, HEADS, GROUPS, HEAD_DIM = 4, 203, 4, 2, 8


def main() -> None:
    """Save everything under the name of what was computed."""
    assert native.enabled()
    sizes = (2, 2, 2) if jax.device_count() == 8 else (1, 1, 1)
    jax.set_mesh(jax.make_mesh(sizes, ("m", "d", "t"), axis_types=(AxisType.Explicit,) * 3))
    random = np.random.default_rng(0)

    def place(shape: tuple[int, ...], *spec: object) -> jax.Array:
        x = random.normal(size=shape).astype(np.float32)
        return jax.device_put(x, PartitionSpec(("m", "d"), *spec))

    q = place((ROWS, LENGTH, HEADS, HEAD_DIM), None, "t", None)
    k, v = (place((ROWS, LENGTH, GROUPS, HEAD_DIM), None, "t", None) for _ in range(2))
    qkv = place((ROWS, LENGTH, 3, HEADS, HEAD_DIM), None, None, "t", None)
    starts = np.cumsum(random.random((ROWS, LENGTH)) < 0.02, axis=1).astype(np.int32)
    segments = jax.device_put(starts, PartitionSpec(("m", "d"), None))

    def plain(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        masks = Dropout(jax.random.key(1), LENGTH, first_row=5)
        return attention(q, k, v, segments, masks, 0.2)

    def inside(qkv: jax.Array, segments: jax.Array) -> jax.Array:
        """Attend twice in a scan under `checkpoint`, as a model does, with the axis m manual."""
        first = 5 + jax.lax.axis_index("m") * qkv.shape[0]

        def layer(qkv: jax.Array, number: jax.Array) -> tuple[jax.Array, None]:
            masks = Dropout(jax.random.key(1), LENGTH, first).fold(number)
            out = packed_attention(qkv, segments, masks, 0.2)
            return qkv + out[:, :, None], None

        layer = jax.checkpoint(layer)
        return jax.lax.scan(layer, qkv, jnp.arange(2))[0]

    def packed(qkv: jax.Array) -> jax.Array:
        rows = PartitionSpec("m")
        run = jax.shard_map(
            inside, in_specs=(rows, rows), out_specs=rows, axis_names={"m"}, check_vma=False
        )
        return run(qkv, segments)

    saved = {}
    for name, function, operands in (("plain", plain, (q, k, v)), ("packed", packed, (qkv,))):
        numbers = tuple(range(len(operands)))
        gradient = jax.grad(lambda *x, f=function: jnp.sum(jnp.sin(f(*x))), numbers)
        saved[f"{name} out"] = jax.jit(function)(*operands)
        for number, x in enumerate(jax.jit(gradient)(*operands)):
            saved[f"{name} gradient {number}"] = x
    np.savez(sys.argv[1], **{name: np.asarray(x) for name, x in saved.items()})


main()
