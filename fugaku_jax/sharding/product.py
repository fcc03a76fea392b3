"""A product of activations and weights whose dimensions and positions may be shared.

Where tensor devices share the positions between products (Korthikanti et al., "Reducing Activation
Recomputation in Large Transformer Models", 2022), a product begins by gathering them or ends by
summing over the devices and scattering the positions again. What is kept for the backward pass are
the shared positions, which are gathered again.
"""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec, reshard
from jaxtyping import Array, Float

from fugaku_jax.kernels.matmul import einsum


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def product(
    x: Float[Array, "B T ..."],
    kernel: Float[Array, "..."],
    bias: Float[Array, "..."] | None,
    equation: str,
    gathered: PartitionSpec,
    result: PartitionSpec,
) -> Float[Array, "B T ..."]:
    """Multiply in the type of `x` and add a bias, if any; the kernel, in fp32, is kept as it is.

    Args:
        equation: an einsum of `x` and the kernel, positions second in `x` and the result.
        gathered: the partition of `x` that the product needs, all positions together.
        result: the partition of the result.
    """
    return _forward(x, kernel, bias, equation, gathered, result)[0]


def _forward(
    x: Array,
    kernel: Array,
    bias: Array | None,
    equation: str,
    gathered: PartitionSpec,
    result: PartitionSpec,
) -> tuple[Array, tuple[Array, Array, tuple[()] | None]]:
    y = einsum(equation, reshard(x, gathered), kernel, result, bias=bias)
    return y, (x, kernel, None if bias is None else ())  # of the bias only that there is one


def _backward(
    equation: str,
    gathered: PartitionSpec,
    result: PartitionSpec,
    kept: tuple[Array, Array, tuple[()] | None],
    dy: Array,
) -> tuple[Array, Array, Array | None]:
    x, kernel, has_bias = kept
    d_bias = None if has_bias is None else dy.sum((0, 1), jnp.float32)
    inputs, output = equation.split("->")
    left, right = inputs.split(",")
    dy = reshard(dy, PartitionSpec(gathered[0], gathered[1], *result[2:]))
    dx = einsum(f"{output},{right}->{left}", dy, kernel, jax.typeof(x).sharding.spec)
    d_kernel = einsum(
        f"{left},{output}->{right}",
        reshard(x, gathered),
        dy,
        jax.typeof(kernel).sharding.spec,
        jnp.float32,
    )
    return dx, d_kernel, d_bias


product.defvjp(_forward, _backward)
