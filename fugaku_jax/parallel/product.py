"""A product of activations and weights whose dimensions and positions may be shared.

Where tensor devices share the positions between products (Korthikanti et al., "Reducing Activation
Recomputation in Large Transformer Models", 2022), a product begins by gathering them or ends by
summing over the devices and scattering the positions again. What is kept for the backward pass are
the shared positions, which are gathered again.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec, reshard
from jaxtyping import Array, Float

from fugaku_jax.kernels.activation import gelu
from fugaku_jax.kernels.matmul import einsum

Activation = Callable[[Array], Array]
"""Of the operand of a product, which keeps what comes before it, and computes it again."""


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5, 6))
def product(
    x: Float[Array, "B T ..."],
    kernel: Float[Array, "..."],
    bias: Float[Array, "..."] | None,
    equation: str,
    gathered: PartitionSpec,
    result: PartitionSpec,
    activation: Activation | None = None,
) -> Float[Array, "B T ..."]:
    """Multiply in the type of `x` and add a bias, if any; the kernel, in fp32, is kept as it is.

    Args:
        equation: an einsum of `x` and the kernel, positions second in `x` and the result.
        gathered: the partition of `x` that the product needs, all positions together.
        result: the partition of the result.
        activation: what `x` goes through first; GELU as the product reads it.
    """
    return _forward(x, kernel, bias, equation, gathered, result, activation)[0]


def _forward(
    x: Array,
    kernel: Array,
    bias: Array | None,
    equation: str,
    gathered: PartitionSpec,
    result: PartitionSpec,
    activation: Activation | None,
) -> tuple[Array, tuple[Array, Array, tuple[()] | None]]:
    fused = activation is gelu
    operand = reshard(x if fused or activation is None else activation(x), gathered)
    y = einsum(equation, operand, kernel, result, bias=bias, gelu_of_x=fused)
    return y, (x, kernel, None if bias is None else ())  # of the bias only that there is one


def _backward(
    equation: str,
    gathered: PartitionSpec,
    result: PartitionSpec,
    activation: Activation | None,
    kept: tuple[Array, Array, tuple[()] | None],
    dy: Array,
) -> tuple[Array, Array, Array | None]:
    x, kernel, has_bias = kept
    fused = activation is gelu
    operand, pull = (x, None) if fused or activation is None else jax.vjp(activation, x)
    inputs, output = equation.split("->")
    left, right = inputs.split(",")
    dy = reshard(dy, PartitionSpec(gathered[0], gathered[1], *result[2:]))
    dx = einsum(
        f"{output},{right}->{left}",
        dy,
        kernel,
        jax.typeof(operand).sharding.spec,
        gelu_slope=x if fused else None,
    )
    d_kernel = einsum(
        f"{left},{output}->{right}",
        reshard(operand, gathered),
        dy,
        jax.typeof(kernel).sharding.spec,
        jnp.float32,
        gelu_of_x=fused,
    )
    d_bias = None
    if has_bias is not None:
        # A sum of XLA's would be rounded otherwise on another number of cores.
        ones = jnp.ones(dy.shape[:2], dy.dtype, out_sharding=PartitionSpec(*gathered[:2]))
        summed = f"{output[:2]},{output}->{output[2:]}"
        d_bias = einsum(summed, ones, dy, PartitionSpec(*result[2:]), jnp.float32)
    return dx if pull is None else pull(dx)[0], d_kernel, d_bias


product.defvjp(_forward, _backward)
