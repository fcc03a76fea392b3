"""The layers of the model: weights with their logical axes beside them.

Weights are fp32; a layer computes in the type of its input, so the precision of a step is set by
what enters the first layer.
"""

import re
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec, reshard
from jaxtyping import Array, Float, Int, Key

from fugaku_jax.kernels.norm import layer_norm, rms_norm
from fugaku_jax.layout.rules import LogicalAxis, Rules
from fugaku_jax.parallel.product import Activation, product

PRODUCT = "product"
"""The name that results of products with weights have for a policy of recomputation."""

_AXES: dict[str, LogicalAxis] = {"d": "embed", "h": "heads", "g": "heads", "f": "mlp"}


class Embedding(nnx.Module):
    """A table of vectors, one a row."""

    def __init__(
        self,
        rows: int,
        width: int,
        row_axis: LogicalAxis | None,
        std: float,
        key: Key[Array, ""],
        rules: Rules,
    ) -> None:
        spec, shape = rules.spec, (rows, width)
        missing = -rows % (1 if row_axis is None else rules.parts(row_axis))
        if missing:
            # Rows that no index names, so that the devices hold equally many; the others are the
            # same on every mesh.
            table = jax.random.normal(key, shape, out_sharding=spec(None, "embed"))
            table = reshard(jnp.pad(table, ((0, missing), (0, 0))), spec(row_axis, "embed"))
        else:
            table = jax.random.normal(key, shape, out_sharding=spec(row_axis, "embed"))
        self.table, self.rules = nnx.Param(std * table), rules

    def __call__(self, index: Int[Array, "B T"]) -> Float[Array, "B T D"]:
        """Look rows up, in fp32."""
        return (
            self.table[...]
            .at[index]
            .get(out_sharding=self.rules.spec("batch", "sequence", "embed"))
        )

    def logits(self, hidden: Float[Array, "B T D"]) -> Float[Array, "B T V"]:
        """Return the products of all rows with hidden states, in fp32."""
        return jnp.einsum(
            "btd,vd->btv",
            hidden,
            self.table[...].astype(hidden.dtype),
            preferred_element_type=jnp.float32,
            out_sharding=self.rules.spec("batch", "sequence", "vocab"),
        )


class LayerNorm(nnx.Module):
    """Layer normalisation with scale and bias."""

    def __init__(self, width: int, epsilon: float) -> None:
        self.scale = nnx.Param(jnp.ones(width))
        self.bias = nnx.Param(jnp.zeros(width))
        self.epsilon = epsilon

    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        """Normalise each position."""
        return layer_norm(x, self.scale[...], self.bias[...], self.epsilon)


class RMSNorm(nnx.Module):
    """Root-mean-square normalisation with scale."""

    def __init__(self, width: int, epsilon: float) -> None:
        self.scale = nnx.Param(jnp.ones(width))
        self.epsilon = epsilon

    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        """Normalise each position."""
        return rms_norm(x, self.scale[...], self.epsilon)


class Linear(nnx.Module):
    """An affine map between dimensions with a letter each, written as the `einsum` that it is.

    `btd,dchk->btchk` maps the width (d) to several groups (c) of heads (h) of width k. Letters
    that devices may share: h and g, heads of queries and of keys; f, the feed-forward layer.
    """

    def __init__(
        self,
        equation: str,
        sizes: Mapping[str, int],
        std: float,
        key: Key[Array, ""],
        rules: Rules,
        bias: bool,
    ) -> None:
        """Make weights of normal distribution and a bias of zeros.

        Args:
            equation: the einsum of input and kernel; the input and the result start with `bt`.
            sizes: of the kernel's dimensions; the input's come first.
            std: standard deviation of the weights.
            key: key of the weights.
            rules: which mesh axes carry which of the dimensions.
            bias: whether there is one.
        """
        _, kernel, result = re.split(",|->", equation)
        shape, outputs = tuple(sizes[letter] for letter in kernel), len(result) - len("bt")
        self.equation, self.rules = equation, rules
        self.axes = tuple(_AXES.get(letter) for letter in kernel)
        self.output_axes = self.axes[-outputs:]
        weights = jax.random.normal(key, shape, out_sharding=rules.spec(*self.axes))
        self.kernel = nnx.Param(std * weights)
        cut = rules.spec(*self.output_axes)
        zeros = jnp.zeros(shape[-outputs:], out_sharding=cut) if bias else None
        self.bias = zeros if zeros is None else nnx.Param(zeros)

    def __call__(
        self, x: Float[Array, "B T ..."], activation: Activation | None = None
    ) -> Float[Array, "B T ..."]:
        """Map each position, or its activation, in the type of `x`."""
        # The product needs the devices for other than positions.
        spec, inputs = self.rules.spec, len(self.equation.split(",")[0])
        gathered = PartitionSpec(*spec("batch", "sequence", *self.axes)[:inputs])
        result = spec("batch", "sequence", *self.output_axes)
        bias = None if self.bias is None else self.bias[...]
        y = product(x, self.kernel[...], bias, self.equation, gathered, result, activation)
        return checkpoint_name(y, PRODUCT)
