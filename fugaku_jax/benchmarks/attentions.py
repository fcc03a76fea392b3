"""Attention forward and backward, called through this project and through PyTorch."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np


@dataclass(frozen=True)
class Attention:
    """Causal attention from the product of queries, keys and values, `[B, T, 3, H, K]`, and back.

    Everybody starts from that array and ends at its gradient, in the layout of its own.
    """

    length: int
    dtype: str = "float32"
    batch: int = 4
    heads: int = 12
    head_dim: int = 64

    ceiling: ClassVar[str] = "peak"

    @property
    def name(self) -> str:
        """A word for it: `float32 4x2048x12x64`."""
        return f"{self.dtype} {self.batch}x{self.length}x{self.heads}x{self.head_dim}"

    @property
    def work(self) -> int:
        """The operations of its two products forward and five backward, of the seen half."""
        return 7 * self.batch * self.heads * self.length**2 * self.head_dim

    def operands(self) -> tuple[np.ndarray, np.ndarray]:
        """Draw queries, keys and values, and the gradient of the result, in fp32."""
        random = np.random.default_rng(0)
        shape = (self.batch, self.length, self.heads, self.head_dim)
        qkv = random.standard_normal((*shape[:2], 3, *shape[2:]), np.float32)
        return qkv, random.standard_normal(shape, np.float32)

    def jax_call(self) -> Callable[[], object]:
        """Return a call of the native kernels or of the reference, as `native.use` says."""
        import jax
        import jax.numpy as jnp

        from fugaku_jax.kernels.attention import packed_attention

        qkv, d_out = (jnp.asarray(each, self.dtype) for each in self.operands())

        def both_ways(qkv: jax.Array, d_out: jax.Array) -> tuple[jax.Array, jax.Array]:
            out, back = jax.vjp(packed_attention, qkv)
            return out, back(d_out)[0]

        compiled = jax.jit(both_ways).lower(qkv, d_out).compile()
        return lambda: jax.block_until_ready(compiled(qkv, d_out))

    def torch_call(self) -> Callable[[], object]:
        """Return a call of PyTorch's."""
        import torch

        dtype = getattr(torch, self.dtype)
        qkv, d_out = (torch.from_numpy(each).to(dtype) for each in self.operands())
        qkv.requires_grad_()

        def both_ways() -> tuple[torch.Tensor, torch.Tensor]:
            q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
            out = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            out = out.transpose(1, 2)
            return out, torch.autograd.grad(out, qkv, d_out)[0]

        return both_ways


def attentions(dtype: str) -> Iterator[Attention]:
    """Yield the two lengths at which it is compared."""
    for length in (512, 2048):
        yield Attention(length, dtype)
