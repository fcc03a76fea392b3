"""A model's weights as generation reads them: in the type of its arithmetic, and in panels."""

import functools
import math
import re

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec, reshard
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from fugaku_jax.kernels import native
from fugaku_jax.kernels.matmul import axis_names
from fugaku_jax.kernels.panels import lay_out, panel_product
from fugaku_jax.layout.rules import LogicalAxis, Rules
from fugaku_jax.models.gpt import GPT
from fugaku_jax.models.layers import Linear
from fugaku_jax.parallel.product import Activation


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
    ) -> None:
        """Lay a stack of kernels out.

        Args:
            kernel: of all layers.
            bias: of all layers.
            equation: the einsum of input and a layer's kernel; input and result start with `bt`.
            axes: of a layer's kernel.
            rules: which mesh axes carry them.
            dtype: of the panels.
            result_dtype: of the result: the same, or fp32.
        """
        outputs = len(re.split(",|->", equation)[2]) - len("bt")
        self.axes, self.output_axes, self.rules = axes, axes[-outputs:], rules
        self.output_shape = kernel.shape[-outputs:]
        self.result_dtype = jnp.dtype(result_dtype)
        self.panels = Stacked(_panels(kernel, rules.spec(*axes), outputs, jnp.dtype(dtype)))
        self.bias = None if bias is None else Stacked(bias.astype(jnp.float32))
        self.layer = nnx.Param(jnp.arange(len(kernel), dtype=jnp.int32))

    def __call__(
        self, x: Float[Array, "B T ..."], activation: Activation | None = None
    ) -> Float[Array, "B T ..."]:
        """Map each position, or its activation, by the one layer that `layer` names.

        The result is in the type of the panels, or in fp32.
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

        def local(x: Array, panels: Array, layer: Array, bias: Array | None) -> Array:
            rows = x.reshape(x.shape[0] * x.shape[1], -1)
            biases = None if bias is None else bias.reshape(len(bias), -1)
            columns = math.prod(shape)
            if not summed:
                y = panel_product(rows, panels, layer, columns, biases, self.result_dtype)
            else:
                y = panel_product(rows, panels, layer, columns, None, jnp.float32)
                y = jax.lax.psum(y, summed)
                y = y if biases is None else y + biases[layer]
            return y.reshape(*x.shape[:2], *shape).astype(self.result_dtype)

        panels, bias = self.panels[...], None if self.bias is None else self.bias[...]
        x = reshard(x.astype(panels.dtype), given)
        return native.on_each_device(local, result, x, panels, self.layer[...], bias)


class PanelOutput(PanelLinear):
    """The output matrix, its results in fp32."""

    def __init__(self, table: Float[Array, "V D"], rules: Rules, dtype: DTypeLike) -> None:
        axes: tuple[LogicalAxis | None, ...] = "embed", "vocab"
        super().__init__(table.T[None], None, "btd,dv->btv", axes, rules, dtype, jnp.float32)
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


def laid_out(model: GPT, dtype: DTypeLike) -> GPT:
    """Return a copy of a model whose products read panels.

    Its `output` is so even where the model has none but its embedding. What is no operand of a
    product stays in fp32, but for the embedding.

    Args:
        dtype: type of the weights and of the arithmetic.
    """
    dtype, rules = jnp.dtype(dtype), model.rules
    new = nnx.merge(*nnx.split(model))
    for name, linear in vars(model.blocks).items():
        if isinstance(linear, Linear):
            bias = None if linear.bias is None else linear.bias[...]
            product = linear.kernel[...], bias, linear.equation, linear.axes, rules, dtype, dtype
            setattr(new.blocks, name, PanelLinear(*product))
    output = PanelOutput(model.output_table, rules, dtype)
    new.output = output  # pyrefly: ignore[bad-assignment]
    new.tokens = BitEmbedding(  # pyrefly: ignore[bad-assignment]
        model.tokens.table[...], dtype, rules
    )
    return new


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _panels(kernel: Array, entries: PartitionSpec, outputs: int, dtype: jnp.dtype) -> Array:
    """Lay out what each device has of the kernels, each layer's cut as `entries` say."""
    inputs, results = entries[:-outputs], entries[-outputs:]

    def local(kernel: Array) -> Array:
        columns = math.prod(kernel.shape[-outputs:])
        return lay_out(kernel.astype(dtype).reshape(len(kernel), -1, columns))

    def merged(entries: tuple) -> tuple[str, ...] | None:
        return tuple(axis for entry in entries for axis in axis_names(entry)) or None

    cut = PartitionSpec(None, merged(results), merged(inputs), None)
    return native.on_each_device(local, cut, reshard(kernel, PartitionSpec(None, *entries)))
