"""Multiply with dimensions and positions shared in several ways, and save what comes out.

Run by `test_product.py`, since the number of emulated devices is fixed when JAX starts.
"""

import re
import sys
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from fugaku_jax.parallel.product import product

COLLECTIVES = r" (all-reduce|all-gather|reduce-scatter|all-to-all)\("
EQUATION = "btd,df->btf"
CASES = {
    # x, kernel, x as the product needs it, result
    "nothing shared": (P(), P(), P(None, None, None), P(None, None, None)),
    "outputs": (P(), P(None, "b"), P(None, None, None), P(None, None, "b")),
    "inputs": (P(None, None, "b"), P("b"), P(None, None, "b"), P(None, None, None)),
    "positions, then outputs": (
        P(None, "b"),
        P(None, "b"),
        P(None, None, None),
        P(None, None, "b"),
    ),
    "inputs, then positions": (P(None, None, "b"), P("b"), P(None, None, "b"), P(None, "b", None)),
}


def main() -> None:
    """Save results and gradients under `case/dtype/...`, and the collectives of both passes."""
    mesh = jax.make_mesh((3,), ("b",), axis_types=(AxisType.Explicit,))
    jax.set_mesh(mesh)
    random = np.random.default_rng(0)
    sizes = ((2, 6, 9), (9, 12), (2, 6, 12), (12,))
    x, kernel, cotangent, bias = (random.normal(size=size).astype(np.float32) for size in sizes)
    saved = {"x": x, "kernel": kernel, "cotangent": cotangent, "bias": bias}
    for name, (x_spec, kernel_spec, gathered, result) in CASES.items():
        for dtype in (jnp.float32, jnp.bfloat16):
            placed = (
                jax.device_put(jnp.asarray(x, dtype), x_spec),
                jax.device_put(kernel, kernel_spec),
                jax.device_put(bias, P(result[2])),
                jax.device_put(jnp.asarray(cotangent, dtype), result),
            )

            @jax.jit
            def both(x, kernel, bias, dy, gathered=gathered, result=result):
                y, pullback = jax.vjp(
                    lambda *operands: product(*operands, EQUATION, gathered, result),
                    *(x, kernel, bias),
                )
                return y, *pullback(dy)

            found = both(*placed)
            for key, value in zip(("y", "dx", "dk", "db"), found, strict=True):
                saved[f"{name}/{jnp.dtype(dtype).name}/{key}"] = np.asarray(value, np.float32)
            # Without the bias's gradient, which is a sum over all positions.
            products = jax.jit(lambda *operands, both=both: both(*operands)[:3])
            text = products.lower(*placed).compile().as_text()
            for kind, count in Counter(re.findall(COLLECTIVES, text)).items():
                saved[f"{name}/{jnp.dtype(dtype).name}/count {kind}"] = count
    np.savez(sys.argv[1], **saved)


main()
