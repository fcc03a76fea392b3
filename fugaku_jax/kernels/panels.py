"""Products with weights that are laid out once, for generation: in panels of columns.

Generating a token multiplies a few rows by every weight, and takes the time of reading them. In
panels they are read from end to end. The panels of all layers lie in one array, of which the kernel
is told the layer: cutting a layer out would copy it.

Weights may be int8, with a scale for each column. Each 64 numbers of a row are then made int8 too,
with a scale of their own, and their products add up exactly. Source: Dettmers et al., "LLM.int8()",
2022, section 2.1, with groups as in llama.cpp's `Q8_0`.
"""

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Int8, Num

from fugaku_jax.kernels import native

WIDTH = 64
"""Columns of a panel, as in `native/panel.h`."""
GROUP = 64
"""Numbers of a row that have a scale in common where weights are int8."""
_DEPTHS = {jnp.dtype("bfloat16"): (2, 32), jnp.dtype("int8"): (4, GROUP)}
"""Numbers of the depth that lie together (steps S of it, C = W times them), and its unit."""


def lay_out(weights: Num[Array, "L K N"]) -> Num[Array, "L P S C"]:
    """Cut the columns of each layer's matrix in panels; what is missing of the last is 0."""
    layers, depth, columns = weights.shape
    together, unit = _DEPTHS.get(weights.dtype, (1, 1))
    filled = jnp.pad(weights, ((0, 0), (0, -depth % unit), (0, -columns % WIDTH)))
    steps, panels = filled.shape[1] // together, filled.shape[2] // WIDTH
    x = filled.reshape(layers, steps, together, panels, WIDTH).transpose(0, 3, 1, 4, 2)
    return x.reshape(layers, panels, steps, WIDTH * together)


def quantise(weights: Float[Array, "L K N"]) -> tuple[Int8[Array, "L K N"], Float[Array, "L 1 N"]]:
    """Make weights int8, from -127 to 127, and return what each column is to be multiplied by."""
    scales = jnp.abs(weights.astype(jnp.float32)).max(1, keepdims=True, initial=0) / 127
    whole = jnp.round(weights / jnp.where(scales > 0, scales, 1))
    return whole.astype(jnp.int8), scales


def panel_product(
    x: Float[Array, "M K"],
    panels: Num[Array, "L P S C"],
    layer: Int[Array, ""],
    columns: int,
    bias: Float[Array, "L N"] | None = None,
    dtype: DTypeLike | None = None,
    scales: Float[Array, "L P 1 W"] | None = None,
    count: Int[Array, ""] | None = None,
) -> Float[Array, "M N"]:
    """Multiply rows by a layer's matrix and add its bias, in fp32; on one device.

    Args:
        x: rows, in the type of the panels where that is not int8.
        panels: of all layers, as `lay_out` makes them.
        layer: which of them.
        columns: of the matrix (N).
        bias: of all layers, in fp32.
        dtype: the type of the result, that of `x` or fp32; that of `x` if not given.
        scales: of all layers, laid out too, in fp32; where panels are int8.
        count: how many rows count, the first ones; the others only fill the array, and become 0.
            All count if not given.
    """
    dtype = jnp.dtype(dtype or x.dtype)
    count = jnp.int32(len(x)) if count is None else count.astype(jnp.int32)
    if x.dtype not in native.DTYPES or not native.enabled():
        return reference_panel_product(x, panels, layer, columns, bias, dtype, scales, count)
    [y] = native.call(
        "panels",
        [jax.ShapeDtypeStruct((len(x), columns), dtype)],
        x,
        panels,
        layer.astype(jnp.int32),
        count,
        *(() if scales is None else (scales,)),
        *(() if bias is None else (bias,)),
        rows=len(x),
        columns=columns,
        add_bias=bias is not None,
    )
    return y


def reference_panel_product(
    x: Float[Array, "M K"],
    panels: Num[Array, "L P S C"],
    layer: Int[Array, ""],
    columns: int,
    bias: Float[Array, "L N"] | None,
    dtype: DTypeLike,
    scales: Float[Array, "L P 1 W"] | None,
    count: Int[Array, ""],
) -> Float[Array, "M N"]:
    """Do so in `jnp`."""
    w = jax.lax.dynamic_index_in_dim(panels, layer, keepdims=False)
    number, steps, together = *w.shape[:2], w.shape[2] // WIDTH
    w = w.reshape(number, steps, WIDTH, together).swapaxes(2, 3)
    w = w.reshape(number, steps * together, WIDTH)
    x = jnp.pad(x, ((0, 0), (0, w.shape[1] - x.shape[1])))
    if scales is None:
        y = jnp.einsum("mk,pkw->mpw", x, w, preferred_element_type=jnp.float32)
    else:
        scale = jax.lax.dynamic_index_in_dim(scales, layer, keepdims=False)
        y = _sum_of_groups(x, w) * scale[:, 0]
    y = y.reshape(len(x), len(w) * WIDTH)[:, :columns]
    if bias is not None:
        y += jax.lax.dynamic_index_in_dim(bias, layer, keepdims=False)
    return jnp.where(jnp.arange(len(y))[:, None] < count, y, 0).astype(dtype)


def _sum_of_groups(x: Float[Array, "M K"], w: Int8[Array, "P K W"]) -> Float[Array, "M P W"]:
    groups = x.astype(jnp.float32).reshape(len(x), x.shape[1] // GROUP, GROUP)
    most = jnp.abs(groups).max(2, keepdims=True, initial=0)
    whole = jnp.round(groups * jnp.where(most > 0, 127 / most, 0)).astype(jnp.int8)
    w = w.reshape(len(w), groups.shape[1], GROUP, WIDTH)
    sums = jnp.einsum("mgk,pgkw->mgpw", whole, w, preferred_element_type=jnp.int32)
    return (sums * (most / 127)[..., None]).sum(1)
