"""Products of two arrays, written as the `einsum` that they are and shared as their types say.

A product is one of matrices, perhaps several of them, wherever the labels that both operands, one
of them or only the operands have stand together; then the native kernel multiplies what lies in
memory as it lies. It reads fp32, bf16 and fp16, each operand its own, and adds in fp32.
"""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from fugaku_jax.kernels import native
from fugaku_jax.kernels.activation import gelu, gelu_backward


def einsum(
    equation: str,
    x: Float[Array, "..."],
    y: Float[Array, "..."],
    result: PartitionSpec,
    dtype: DTypeLike | None = None,
    into: Float[Array, "..."] | None = None,
    bias: Float[Array, "..."] | None = None,
    gelu_of_x: bool = False,
    gelu_slope: Float[Array, "..."] | None = None,
) -> Float[Array, "..."]:
    """Contract two arrays; a label that devices share is summed over them, in fp32.

    Args:
        equation: labels of the operands and of the result, e.g. `btd,df->btf`; none is repeated
            within an operand.
        result: the partition of the result over axes that are not manual. A mesh axis of a summed
            label may split a dimension of the result: the sum is then a reduce-scatter.
        dtype: the type of the result; that of `x` if not given.
        into: what the product is added to, in place if nobody else wants it; its type and its
            partition are those of the result.
        bias: is added to the product, in fp32; its labels are the last of the result, those of
            `y` alone, and so are their partitions.
        gelu_of_x: contract gelu(x), which the native kernel does not write to memory.
        gelu_slope: multiply the product by gelu's derivative there; of the result's type and
            partition. Not together with `into`.

    Raises:
        ValueError: the operands do not have the dimensions of the equation, or of `into` and
            `gelu_slope` both are given.
    """
    dtype = jnp.dtype(dtype or x.dtype) if into is None else into.dtype
    inputs, output = equation.split("->")
    left, right = inputs.split(",")
    if (x.ndim, y.ndim) != (len(left), len(right)):
        raise ValueError(f"{equation} is asked of arrays of {x.ndim} and {y.ndim} dimensions.")
    if into is not None and gelu_slope is not None:
        raise ValueError("Of `into` and `gelu_slope` only one may be given.")
    shared: dict[str, tuple[str, ...]] = {}
    for labels, operand in ((left, x), (right, y)):
        for label, entry in zip(labels, jax.typeof(operand).sharding.spec, strict=True):
            if label not in output:
                shared.setdefault(label, axis_names(entry))
    summed = tuple(axis for axes in shared.values() for axis in axes)
    scattered = {
        dimension: axes
        for dimension, entry in enumerate(result)
        if (axes := tuple(axis for axis in axis_names(entry) if axis in summed))
    }

    def local(
        x: Array, y: Array, into: Array | None, bias: Array | None, slope: Array | None
    ) -> Array:
        if not summed:
            return _local(equation, x, y, dtype, gelu_of_x, into, bias, slope)
        z = _local(equation, x, y, jnp.dtype(jnp.float32), gelu_of_x)
        # Summed in fp32: MPI and gloo do not all know narrower types.
        for dimension, axes in scattered.items():
            z = jax.lax.psum_scatter(z, axes, scatter_dimension=dimension, tiled=True)
        whole = tuple(axis for axis in summed if axis not in sum(scattered.values(), ()))
        z = jax.lax.psum(z, whole) if whole else z
        return _finish(z, dtype, into, bias, slope)

    return native.on_each_device(local, result, x, y, into, bias, gelu_slope)


def reference_einsum(
    equation: str, x: Float[Array, "..."], y: Float[Array, "..."]
) -> Float[Array, "..."]:
    """Contract two arrays in the type of `x`, adding in fp32; the twin of the native product."""
    return jnp.einsum(equation, x, y.astype(x.dtype), preferred_element_type=jnp.float32)


def _finish(
    z: Array, dtype: jnp.dtype, into: Array | None, bias: Array | None, slope: Array | None
) -> Array:
    """Make a result of a sum of products in fp32."""
    z = z if bias is None else z + bias
    z = z if slope is None else gelu_backward(slope.astype(z.dtype), z)
    return z.astype(dtype) if into is None else into + z.astype(dtype)


def _local(
    equation: str,
    x: Array,
    y: Array,
    dtype: jnp.dtype,
    gelu_of_x: bool,
    into: Array | None = None,
    bias: Array | None = None,
    slope: Array | None = None,
) -> Array:
    inputs, output = equation.split("->")
    plan = _plan(*inputs.split(","), output)
    known = x.dtype in native.DTYPES and dtype in (x.dtype, jnp.float32)
    if plan is None or not known or not native.enabled():
        z = reference_einsum(equation, gelu(x) if gelu_of_x else x, y)
        return _finish(z, dtype, into, bias, slope)
    (batch, rows, depth, columns), transpose_x, transpose_y = plan
    sizes = dict(zip(equation.replace(",", "").split("->")[0], (*x.shape, *y.shape), strict=True))
    count, m, k, n = (math.prod(sizes[c] for c in group) for group in (batch, rows, depth, columns))
    if y.dtype != jnp.float32:
        y = y.astype(x.dtype)
    # The arrays go as they are: XLA would copy what a reshape stands before, if it is added to.
    [z] = native.call(
        "matmul",
        [jax.ShapeDtypeStruct([sizes[label] for label in output], dtype)],
        x,
        y,
        *(each for each in (into, bias, slope) if each is not None),
        aliases={} if into is None else {2: 0},
        batch=count,
        rows=m,
        columns=n,
        depth=k,
        transpose_a=transpose_x,
        transpose_b=transpose_y,
        gelu_of_a=gelu_of_x,
        accumulate=into is not None,
        add_bias=bias is not None,
        gelu_slope=slope is not None,
    )
    return z


@functools.cache
def _plan(left: str, right: str, output: str) -> tuple[Sequence[str], bool, bool] | None:
    """Read an einsum as products of matrices.

    Returns:
        the labels of batch, rows, depth and columns, and whether each operand lies transposed;
        None if the labels of these do not stand together, or some label is of no matrix.
    """
    both = "".join(c for c in left if c in right)
    batch = "".join(c for c in both if c in output)
    depth = "".join(c for c in both if c not in output)
    rows = "".join(c for c in left if c not in right)
    columns = "".join(c for c in right if c not in left)
    if output != batch + rows + columns:
        return None
    transposed_x, transposed_y = batch + depth + rows, batch + columns + depth
    if left not in (batch + rows + depth, transposed_x):
        return None
    if right not in (batch + depth + columns, transposed_y):
        return None
    turned = bool(rows) and left == transposed_x, bool(columns) and right == transposed_y
    return (batch, rows, depth, columns), *turned


def axis_names(entry: str | tuple[str, ...] | None) -> tuple[str, ...]:
    """Return the mesh axes that an entry of a partition names."""
    return (entry,) if isinstance(entry, str) else tuple(entry or ())
