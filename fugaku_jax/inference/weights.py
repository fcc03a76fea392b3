"""A model's weights as generation reads them: in panels, of its arithmetic's type or of int8."""

import functools
import math
import re
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec, reshard
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from fugaku_jax.kernels import native
from fugaku_jax.kernels.matmul import axis_names
from fugaku_jax.kernels.panels import lay_out, panel_product, quantise
from fugaku_jax.layout.rules import LogicalAxis, Rules
from fugaku_jax.models.gpt import GPT
from fugaku_jax.models.layers import Linear
from fugaku_jax.parallel.product import Activation

Weights = Literal["int8"] | None
"""What products read instead of weights in the type of the arithmetic."""

ALL = 2**31 - 1
"""The number of positions that count, where none only fills an array."""


class Stacked(nnx.Param):
    """A weight of all layers; who needs one layer's is told its number."""


class PanelLinear(nnx.Module):
    """What a `Linear` of each layer computes, from panels."""

    def __init__(
        self,
        kernel: Float[Array, "L ..."],
        bias: Float[Array, "L ..."] | None,
        equation: str,
        axes: tuple[LogicalAxis | None, ...],
        rules: Rules,
        dtype: DTypeLike,
        result_dtype: DTypeLike,
        weights: Weights,
    ) -> None:
        """Lay a stack of kernels out.

        Args:
            kernel: of all layers.
            bias: of all layers.
            equation: the einsum of input and a layer's kernel; input and result start with `bt`.
            axes: of a layer's kernel.
            rules: which mesh axes carry them.
            dtype: of the operands.
            result_dtype: of the result: the same, or fp32.
            weights: of the panels, if it is not that of the operands.
        """
        outputs = len(re.split(",|->", equation)[2]) - len("bt")
        self.axes, self.output_axes, self.rules = axes, axes[-outputs:], rules
        self.output_shape = kernel.shape[-outputs:]
        self.dtype, self.result_dtype = jnp.dtype(dtype), jnp.dtype(result_dtype)
        panels, scales = _panels(kernel, rules.spec(*axes), outputs, self.dtype, weights)
        self.panels, self.scales = Stacked(panels), None if scales is None else Stacked(scales)
        self.bias = None if bias is None else Stacked(bias.astype(jnp.float32))
        self.layer = nnx.Param(jnp.arange(len(kernel), dtype=jnp.int32))
        self.count = Stacked(jnp.int32(ALL))

    def __call__(
        self, x: Float[Array, "B T ..."], activation: Activation | None = None
    ) -> Float[Array, "B T ..."]:
        """Map each position, or its activation, by the one layer that `layer` names.

        The result is in the type of the operands, or in fp32. What comes out behind the first
        `count` positions means nothing.
        """
        x = x if activation is None else activation(x)
        spec = self.rules.spec
        given = PartitionSpec(*spec("batch", "sequence", *self.axes)[: x.ndim])
        result = spec("batch", "sequence", *self.output_axes)
        summed = tuple(axis for entry in given[2:] for axis in axis_names(entry))
        sizes = dict(jax.sharding.get_abstract_mesh().shape)
        shape = tuple(
            size // math.prod(sizes[axis] for axis in axis_names(entry))
            for size, entry in zip(self.output_shape, result[2:], strict=True)
        )

        def local(
            x: Array,
            panels: Array,
            scales: Array | None,
            layer: Array,
            bias: Array | None,
            count: Array,
        ) -> Array:
            rows = x.reshape(x.shape[0] * x.shape[1], -1)
            biases = None if bias is None else bias.reshape(len(bias), -1)
            given = rows, panels, layer, math.prod(shape)
            if not summed:
                y = panel_product(*given, biases, self.result_dtype, scales, count)
            else:
                y = panel_product(*given, None, jnp.float32, scales, count)
                y = jax.lax.psum(y, summed)
                y = y if biases is None else y + biases[layer]
            return y.reshape(*x.shape[:2], *shape).astype(self.result_dtype)

        scales, bias = (None if x is None else x[...] for x in (self.scales, self.bias))
        x, panels = reshard(x.astype(self.dtype), given), self.panels[...]
        numbers = self.layer[...], bias, self.count[...]
        return native.on_each_device(local, result, x, panels, scales, *numbers)


class PanelOutput(PanelLinear):
    """The output matrix, its results in fp32."""

    def __init__(
        self, table: Float[Array, "V D"], rules: Rules, dtype: DTypeLike, weights: Weights
    ) -> None:
        axes: tuple[LogicalAxis | None, ...] = "embed", "vocab"
        types = dtype, jnp.float32, weights
        super().__init__(table.T[None], None, "btd,dv->btv", axes, rules, *types)
        self.layer = nnx.Param(jnp.int32(0))

    def logits(self, hidden: Float[Array, "B T D"]) -> Float[Array, "B T V"]:
        """Return the products of all rows with hidden states."""
        return self(hidden)


class BitEmbedding(nnx.Module):
    """An `Embedding` of any type, held as bits: XLA would make all of it fp32 each time else."""

    def __init__(self, table: Float[Array, "V D"], dtype: DTypeLike, rules: Rules) -> None:
        self.dtype, self.rules = jnp.dtype(dtype), rules
        bits = jnp.dtype(f"uint{8 * self.dtype.itemsize}")
        self.bits = nnx.Param(jax.lax.bitcast_convert_type(table.astype(self.dtype), bits))

    def __call__(self, index: Int[Array, "B T"]) -> Float[Array, "B T D"]:
        """Look rows up."""
        cut = self.rules.spec("batch", "sequence", "embed")
        rows = self.bits[...].at[index].get(out_sharding=cut)
        return jax.lax.bitcast_convert_type(rows, self.dtype)


def laid_out(model: GPT, dtype: DTypeLike, weights: Weights = None) -> GPT:
    """Return a copy of a model whose products read panels.

    Its `output` is so even where the model has none but its embedding. What is no operand of a
    product stays in fp32, but for the embedding.

    Args:
        dtype: type of the weights and of the arithmetic.
        weights: type of the operands of products among the weights, if it is not that.
    """
    dtype, rules = jnp.dtype(dtype), model.rules
    new = nnx.merge(*nnx.split(model))
    for name, linear in vars(model.blocks).items():
        if isinstance(linear, Linear):
            bias = None if linear.bias is None else linear.bias[...]
            product = linear.kernel[...], bias, linear.equation, linear.axes, rules
            setattr(new.blocks, name, PanelLinear(*product, dtype, dtype, weights))
    output = PanelOutput(model.output_table, rules, dtype, weights)
    new.output = output  # pyrefly: ignore[bad-assignment]
    new.tokens = BitEmbedding(  # pyrefly: ignore[bad-assignment]
        model.tokens.table[...], dtype, rules
    )
    return new


def only_first(model: GPT, positions: Int[Array, ""], texts: Int[Array, ""]) -> None:
    """Have a model that is laid out multiply no more than count; what lies behind fills arrays.

    Args:
        positions: how many of those that go through the blocks.
        texts: how many of those whose logits are found.
    """
    for linear in vars(model.blocks).values():
        if isinstance(linear, PanelLinear):
            linear.count = Stacked(positions)
    model.output.count = Stacked(texts)  # pyrefly: ignore[missing-attribute]


@functools.partial(jax.jit, static_argnums=(1, 2, 3, 4))
def _panels(
    kernel: Array, entries: PartitionSpec, outputs: int, dtype: jnp.dtype, weights: Weights
) -> tuple[Array, Array | None]:
    """Lay out what each device has of the kernels, each layer's cut as `entries` say; and scales,
    which are of each device's own where a column's sum is cut.
    """
    inputs, results = entries[:-outputs], entries[-outputs:]

    def local(kernel: Array) -> tuple[Array, Array | None]:
        kernel = kernel.reshape(len(kernel), -1, math.prod(kernel.shape[-outputs:]))
        if weights is None:
            return lay_out(kernel.astype(dtype)), None
        whole, scales = quantise(kernel)
        return lay_out(whole), lay_out(scales)

    def merged(entries: tuple) -> tuple[str, ...] | None:
        return tuple(axis for entry in entries for axis in axis_names(entry)) or None

    cut = PartitionSpec(None, merged(results), merged(inputs), None)
    specs = cut, None if weights is None else cut
    return native.on_each_device(local, specs, reshard(kernel, PartitionSpec(None, *entries)))
