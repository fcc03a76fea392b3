"""Products with weights that are laid out once, for generation: in panels of columns.

Generating a token multiplies a few rows by every weight, and takes the time of reading them. In
panels they are read from end to end. The panels of all layers lie in one array, of which the kernel
is told the layer: cutting a layer out would copy it.
"""

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from fugaku_jax.kernels import native

WIDTH = 64
"""Columns of a panel, as in `native/panels.cc`."""


def lay_out(weights: Float[Array, "L K N"]) -> Float[Array, "L P K W"]:
    """Cut the columns of each layer's matrix in panels; missing columns of the last are 0."""
    layers, depth, columns = weights.shape
    panels = -(-columns // WIDTH)
    filled = jnp.pad(weights, ((0, 0), (0, 0), (0, panels * WIDTH - columns)))
    return filled.reshape(layers, depth, panels, WIDTH).swapaxes(1, 2)


def panel_product(
    x: Float[Array, "M K"],
    panels: Float[Array, "L P K W"],
    layer: Int[Array, ""],
    columns: int,
    bias: Float[Array, "L N"] | None = None,
    dtype: DTypeLike | None = None,
) -> Float[Array, "M N"]:
    """Multiply rows by a layer's matrix and add its bias, in fp32; on one device.

    Args:
        x: rows, in the type of the panels.
        panels: of all layers, as `lay_out` makes them.
        layer: which of them.
        columns: of the matrix (N).
        bias: of all layers, in fp32.
        dtype: the type of the result, that of `x` or fp32; that of `x` if not given.
    """
    dtype = jnp.dtype(dtype or x.dtype)
    if x.dtype not in native.DTYPES or not native.enabled():
        return reference_panel_product(x, panels, layer, columns, bias, dtype)
    [y] = native.call(
        "panels",
        [jax.ShapeDtypeStruct((len(x), columns), dtype)],
        x,
        panels,
        layer.astype(jnp.int32),
        *(() if bias is None else (bias,)),
        rows=len(x),
        columns=columns,
        add_bias=bias is not None,
    )
    return y


def reference_panel_product(
    x: Float[Array, "M K"],
    panels: Float[Array, "L P K W"],
    layer: Int[Array, ""],
    columns: int,
    bias: Float[Array, "L N"] | None,
    dtype: DTypeLike,
) -> Float[Array, "M N"]:
    """Do so in `jnp`."""
    matrix = jax.lax.dynamic_index_in_dim(panels, layer, keepdims=False)
    y = jnp.einsum("mk,pkw->mpw", x, matrix, preferred_element_type=jnp.float32)
    y = y.reshape(len(x), len(matrix) * WIDTH)[:, :columns]
    if bias is not None:
        y += jax.lax.dynamic_index_in_dim(bias, layer, keepdims=False)
    return y.astype(dtype)
