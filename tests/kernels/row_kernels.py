"""Prints what the kernels of rows give, for `test_row_kernels.py`: one process a setting.

`row_kernels.py OUT` uses all threads and devices that its environment gives.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec, reshard

from fugaku_jax.kernels.activation import gelu
from fugaku_jax.kernels.adamw import adamw, sum_of_squares
from fugaku_jax.kernels.loss import cross_entropy
from fugaku_jax.kernels.norm import layer_norm

SHAPE, VOCAB = (4, 96, 520), 211


def results(x, other, scale, bias, table):
    """Return values and gradients of every operation."""
    normal, back = jax.vjp(lambda *a: layer_norm(*a, 1e-5), x, scale, bias)
    activated, slope = jax.vjp(gelu, x)
    numbers = {
        "factor": jnp.float32(0.5),
        "apply": jnp.asarray(True),
        "count": jnp.int32(3),
        "learning_rate": jnp.float32(0.01),
    }
    constants = {"weight_decay": 0.1, "beta1": 0.9, "beta2": 0.95, "epsilon": 1e-8}
    new = adamw(x, other, jnp.square(other), other, **numbers, **constants)
    # Values below the normal numbers, which one thread might flush and another keep.
    small = gelu(x * 1e-38)
    targets, weights = jnp.int32(jnp.abs(50 * other[..., 0])), jnp.abs(x[..., 0])
    differentiated = jax.value_and_grad(cross_entropy, (0, 1), has_aux=True)
    (loss, losses), gradients = differentiated(x, table, targets, weights, VOCAB)
    rows = [normal, *back(other), activated, *slope(other), *new, sum_of_squares(x), small]
    return [*rows, loss, losses, *gradients]


def main() -> None:
    """Run them all, the arrays cut among the devices, and save what comes."""
    devices = jax.device_count()
    explicit = (jax.sharding.AxisType.Explicit,) * 2
    shape = (2, devices // 2) if devices > 1 else (1, 1)
    jax.set_mesh(jax.make_mesh(shape, ("rows", "positions"), axis_types=explicit))
    random = np.random.default_rng(0)
    x, other = (jnp.asarray(random.normal(size=SHAPE), jnp.float32) for _ in range(2))
    table = jnp.asarray(random.normal(size=(VOCAB, SHAPE[-1])) / 20, jnp.float32)
    scale, bias = (jnp.asarray(random.normal(size=SHAPE[-1]), jnp.float32) for _ in range(2))
    cut = PartitionSpec("rows", "positions", None)
    x, other = reshard(x, cut), reshard(other, cut)
    compiled = jax.jit(results).lower(x, other, scale, bias, table).compile()
    assert devices == 1 or "all-gather" not in compiled.as_text()
    np.savez(sys.argv[1], *(np.asarray(y) for y in compiled(x, other, scale, bias, table)))


if __name__ == "__main__":
    main()
