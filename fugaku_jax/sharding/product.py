"""A product of activations and weights whose dimensions and positions may be shared.

Where tensor devices share the positions between products (Korthikanti et al., "Reducing Activation
Recomputation in Large Transformer Models", 2022), a product begins by gathering them or ends by
summing over the devices and scattering the positions again. XLA's CPU backend would sum everywhere
and then cut; here the sum is a reduce-scatter, and what is kept for the backward pass are the
shared positions, which are gathered again.
"""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec, reshard
from jaxtyping import Array, Float


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def product(
    x: Float[Array, "B T ..."],
    kernel: Float[Array, "..."],
    equation: str,
    gathered: PartitionSpec,
    result: PartitionSpec,
) -> Float[Array, "B T ..."]:
    """Multiply in the type of `x`; the kernel, in fp32, is converted and kept as it is.

    Args:
        equation: an einsum of `x` and the kernel, positions second in `x` and the result.
        gathered: the partition of `x` that the product needs, all positions together.
        result: the partition of the result.
    """
    return _forward(x, kernel, equation, gathered, result)[0]


def _forward(
    x: Array, kernel: Array, equation: str, gathered: PartitionSpec, result: PartitionSpec
) -> tuple[Array, tuple[Array, Array]]:
    y = _contract(equation, reshard(x, gathered), kernel.astype(x.dtype), result)
    return y, (x, kernel)


def _backward(
    equation: str,
    gathered: PartitionSpec,
    result: PartitionSpec,
    kept: tuple[Array, Array],
    dy: Array,
) -> tuple[Array, Array]:
    x, kernel = kept
    inputs, output = equation.split("->")
    left, right = inputs.split(",")
    dy = reshard(dy, PartitionSpec(gathered[0], gathered[1], *result[2:]))
    where = jax.typeof(x).sharding.spec
    dx = _contract(f"{output},{right}->{left}", dy, kernel.astype(x.dtype), where)
    d_kernel = jnp.einsum(
        f"{left},{output}->{right}",
        reshard(x, gathered),
        dy,
        preferred_element_type=jnp.float32,
        out_sharding=jax.typeof(kernel).sharding.spec,
    )
    return dx, d_kernel


product.defvjp(_forward, _backward)


def _contract(equation: str, x: Array, kernel: Array, result: PartitionSpec) -> Array:
    """Multiply; sum over the devices that share a contracted dimension."""
    x_spec, kernel_spec = jax.typeof(x).sharding.spec, jax.typeof(kernel).sharding.spec
    summed = tuple(axis for entry in x_spec[2:] for axis in _names(entry))
    scattered = tuple(axis for axis in _names(result[1]) if axis in summed)
    if not scattered:
        return jnp.einsum(equation, x, kernel, out_sharding=result)

    def local(x: Array, kernel: Array) -> Array:
        # Summed in fp32: MPI and gloo do not all know narrower types.
        y = jnp.einsum(equation, x, kernel, preferred_element_type=jnp.float32)
        y = jax.lax.psum_scatter(y, scattered, scatter_dimension=1, tiled=True)
        return y.astype(x.dtype)

    mesh = jax.sharding.get_abstract_mesh()
    return jax.shard_map(
        local,
        in_specs=(x_spec, kernel_spec),
        out_specs=result,
        axis_names=set(mesh.axis_names) - set(mesh.manual_axes),
        check_vma=False,
    )(x, kernel)


def _names(entry: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return (entry,) if isinstance(entry, str) else tuple(entry or ())
