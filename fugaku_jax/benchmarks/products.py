"""Products of matrices as the models have them, called through this project and through PyTorch."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

MAPS_125M = ((768, 2304), (768, 768), (768, 3072), (3072, 768))
"""Inputs and outputs of a block's maps: qkv, out, up, down."""
MAPS_13B = ((5184, 2592), (864, 5184), (5184, 3456), (3456, 5184))
"""The same of the 13B model, shared by six devices."""
TABLES = ((768, 50_304), (5184, 8192))
"""Width and vocabulary (at 13B a sixth of it) of the two models' output tables."""


@dataclass(frozen=True)
class Product:
    """A product of matrices, `[rows, depth]` by `[depth, columns]`."""

    rows: int
    depth: int
    columns: int
    dtype: str = "float32"
    transpose_a: bool = False
    transpose_b: bool = False

    ceiling: ClassVar[str] = "peak"

    @property
    def name(self) -> str:
        """A word for it: `float32 2048x768x2304 nt`."""
        turned = "".join("t" if t else "n" for t in (self.transpose_a, self.transpose_b))
        return f"{self.dtype} {self.rows}x{self.depth}x{self.columns} {turned}"

    @property
    def work(self) -> int:
        """Its floating-point operations."""
        return 2 * self.rows * self.depth * self.columns

    def operands(self) -> tuple[np.ndarray, np.ndarray]:
        """Draw the operands as they lie in memory, in fp32."""
        random = np.random.default_rng(0)
        a, b = (self.rows, self.depth), (self.depth, self.columns)
        shapes = a[::-1] if self.transpose_a else a, b[::-1] if self.transpose_b else b
        x, y = (random.standard_normal(shape, np.float32) for shape in shapes)
        return x, y

    def jax_call(self) -> Callable[[], object]:
        """Return a call of the native kernel or of XLA's, as `native.use` says."""
        import jax
        import jax.numpy as jnp
        from jax.sharding import PartitionSpec

        from fugaku_jax.kernels.matmul import einsum

        x, y = (jnp.asarray(each, self.dtype) for each in self.operands())
        left = "km" if self.transpose_a else "mk"
        right = "nk" if self.transpose_b else "kn"

        def product(x: jax.Array, y: jax.Array) -> jax.Array:
            return einsum(f"{left},{right}->mn", x, y, PartitionSpec())

        compiled = jax.jit(product).lower(x, y).compile()
        return lambda: jax.block_until_ready(compiled(x, y))

    def torch_call(self) -> Callable[[], object]:
        """Return a call of PyTorch's."""
        import torch

        dtype = getattr(torch, self.dtype)
        x, y = (torch.from_numpy(each).to(dtype) for each in self.operands())
        x, y = x.T if self.transpose_a else x, y.T if self.transpose_b else y
        return lambda: [torch.mm(x, y)]


def products(dtype: str, positions: int = 2048) -> Iterator[Product]:
    """Yield the products of both models: forward, and the gradients of input and weights."""
    for inputs, outputs in (*MAPS_125M, *MAPS_13B):
        yield Product(positions, inputs, outputs, dtype)
        yield Product(positions, outputs, inputs, dtype, transpose_b=True)
        yield Product(inputs, positions, outputs, dtype, transpose_a=True)
    for width, vocabulary in TABLES:  # which lie a row for each token
        yield Product(positions, width, vocabulary, dtype, transpose_b=True)
        yield Product(positions, vocabulary, width, dtype)
        yield Product(vocabulary, positions, width, dtype, transpose_a=True)
