"""Clipping and AdamW over a model's weights, called through this project and through PyTorch."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

CLIP, LEARNING_RATE = 1.0, 1e-4


@dataclass(frozen=True)
class Update:
    """Clip gradients to a global norm and update fp32 weights, all where they lie."""

    layers: int = 6
    width: int = 768
    vocab_size: int = 50_304

    ceiling: ClassVar[str] = "stream"

    @property
    def name(self) -> str:
        """A word for it: `AdamW over 81.1 M`."""
        return f"AdamW over {self.parameters / 1e6:.1f} M"

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """The model's matrices: its table, and the four maps of each layer."""
        d = self.width
        return [(self.vocab_size, d), *[(d, 3 * d), (d, d), (d, 4 * d), (4 * d, d)] * self.layers]

    @property
    def parameters(self) -> int:
        """How many weights they have."""
        return sum(rows * columns for rows, columns in self.shapes)

    @property
    def work(self) -> int:
        """Bytes that have to pass: gradients read twice, weights and moments read and written."""
        return 4 * (2 + 3 + 3) * self.parameters

    def arrays(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Draw weights and gradients."""
        random = np.random.default_rng(0)
        weights, gradients = (
            [random.standard_normal(shape, np.float32) for shape in self.shapes] for _ in range(2)
        )
        return weights, gradients

    def jax_call(self) -> Callable[[], object]:
        """Return a call of the native kernels or of the reference, as `native.use` says."""
        import jax
        import jax.numpy as jnp

        from fugaku_jax.config import OptimizerConfig
        from fugaku_jax.kernels.adamw import sum_of_squares
        from fugaku_jax.training.adamw import AdamW, Moments
        from fugaku_jax.training.optimizer import clip_factor

        adamw = AdamW(OptimizerConfig(learning_rate=LEARNING_RATE, clip=CLIP))
        weights, gradients = (
            [{"kernel": jnp.asarray(each)} for each in arrays] for arrays in self.arrays()
        )
        Tree = list[dict[str, jax.Array]]

        def step(weights: Tree, moments: Moments, gradients: Tree) -> tuple[Tree, Moments]:
            total = sum(sum_of_squares(each) for each in jax.tree.leaves(gradients))
            norm = jnp.sqrt(jnp.float32(total))
            rate = jnp.float32(LEARNING_RATE)
            factor = clip_factor(norm, CLIP)
            return adamw.apply(weights, moments, gradients, factor, jnp.isfinite(norm), rate)

        state = weights, adamw.init(weights)
        compiled = jax.jit(step, donate_argnums=(0, 1)).lower(*state, gradients).compile()

        def call() -> object:
            nonlocal state
            state = compiled(*state, gradients)
            return jax.block_until_ready(state)

        return call

    def torch_call(self) -> Callable[[], object]:
        """Return a call of PyTorch's."""
        import torch

        weights, gradients = ([torch.from_numpy(each) for each in each] for each in self.arrays())
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.requires_grad_().grad = gradient
        optimizer = torch.optim.AdamW(
            weights, lr=LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.1, fused=True
        )

        def call() -> list[torch.Tensor]:
            torch.nn.utils.clip_grad_norm_(weights, CLIP, foreach=True)
            optimizer.step()
            return weights

        return call
