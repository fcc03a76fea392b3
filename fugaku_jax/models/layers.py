"""The layers of the model: weights with their logical axes beside them.

Weights are fp32; a layer computes in the type of its input, so the precision of a step is set by
what enters the first layer.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec, reshard
from jaxtyping import Array, Float, Int, Key

from fugaku_jax.kernels.norm import layer_norm, rms_norm
from fugaku_jax.sharding.product import product
from fugaku_jax.sharding.rules import LogicalAxis, parts, spec

PRODUCT = "product"
"""The name that results of products with weights have for a policy of recomputation."""


class Embedding(nnx.Module):
    """A table of vectors, one a row."""

    def __init__(
        self, rows: int, width: int, row_axis: LogicalAxis | None, std: float, key: Key[Array, ""]
    ) -> None:
        shape = (rows, width)
        missing = -rows % (1 if row_axis is None else parts(row_axis))
        if missing:
            # Rows that no index names, so that the devices hold equally many; the others are the
            # same on every mesh.
            table = jax.random.normal(key, shape, out_sharding=spec(None, "embed"))
            table = reshard(jnp.pad(table, ((0, missing), (0, 0))), spec(row_axis, "embed"))
        else:
            table = jax.random.normal(key, shape, out_sharding=spec(row_axis, "embed"))
        self.table = nnx.Param(std * table)

    def __call__(self, index: Int[Array, "B T"]) -> Float[Array, "B T D"]:
        """Look rows up, in fp32."""
        return self.table[...].at[index].get(out_sharding=spec("batch", "sequence", "embed"))


class LayerNorm(nnx.Module):
    """Layer normalisation with scale and bias."""

    def __init__(self, width: int, epsilon: float) -> None:
        self.scale = nnx.Param(jnp.ones(width, out_sharding=spec("embed")))
        self.bias = nnx.Param(jnp.zeros(width, out_sharding=spec("embed")))
        self.epsilon = epsilon

    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        """Normalise each position."""
        return layer_norm(x, self.scale[...], self.bias[...], self.epsilon)


class RMSNorm(nnx.Module):
    """Root-mean-square normalisation with scale."""

    def __init__(self, width: int, epsilon: float) -> None:
        self.scale = nnx.Param(jnp.ones(width, out_sharding=spec("embed")))
        self.epsilon = epsilon

    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        """Normalise each position."""
        return rms_norm(x, self.scale[...], self.epsilon)


class Linear(nnx.Module):
    """An affine map between named dimensions, written as the `einsum` that it is.

    `Linear("btd,dchk->btchk", ...)` maps `D` to three groups (c) of heads (h) of width k.
    """

    def __init__(
        self,
        equation: str,
        shape: tuple[int, ...],
        axes: tuple[LogicalAxis | None, ...],
        outputs: int,
        std: float,
        key: Key[Array, ""],
        bias: bool,
    ) -> None:
        """Make weights of normal distribution and a bias of zeros.

        Args:
            equation: the einsum of input and kernel; the input starts with `bt`.
            shape: the kernel's shape, its input dimensions first.
            axes: the kernel's logical axes.
            outputs: how many trailing dimensions of the kernel the result keeps.
            std: standard deviation of the weights.
            key: key of the weights.
            bias: whether there is one.
        """
        self.equation = equation
        self.axes = axes
        self.output_axes = axes[-outputs:]
        self.kernel = nnx.Param(std * jax.random.normal(key, shape, out_sharding=spec(*axes)))
        zeros = jnp.zeros(shape[-outputs:], out_sharding=spec(*self.output_axes)) if bias else None
        self.bias = zeros if zeros is None else nnx.Param(zeros)

    def __call__(self, x: Float[Array, "B T ..."]) -> Float[Array, "B T ..."]:
        """Map each position, in the type of `x`."""
        # The product needs the devices for other than positions.
        gathered = PartitionSpec(*spec("batch", "sequence", *self.axes)[: x.ndim])
        result = spec("batch", "sequence", *self.output_axes)
        bias = None if self.bias is None else self.bias[...]
        y = product(x, self.kernel[...], bias, self.equation, gathered, result)
        return checkpoint_name(y, PRODUCT)
