"""Which tensor of a Hugging Face model is which part of a parameter of ours, and how it lies there.

Hugging Face names the tensors of each layer apart, GPT-2's as `[in, out]` (its `Conv1D`) and
LLaMA's as `[out, in]`; ours are stacked over layers, and what one product computes is one array.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Shaped

from fugaku_jax.config import ModelConfig


@dataclass(frozen=True)
class Tensor:
    """A tensor of a Hugging Face model."""

    name: str
    """As its state dictionary has it."""
    shape: tuple[int, ...]
    """As its state dictionary has it."""
    path: tuple[str, ...]
    """Where the parameter that it is of stands among ours."""
    layer: int | None = None
    """Which layer it is of, if the parameter is stacked over layers."""
    part: int | None = None
    """Which of several that the parameter has side by side, in its dimension after the input's."""
    transposed: bool = False
    """Whether it is `[out, in]`."""

    def export(self, parameter: Any) -> Shaped[np.ndarray, "..."]:
        """Return it, contiguous, from our parameter, an array or what reads one where it is cut."""
        mine = np.asarray(self._of(parameter))
        tensor = mine.reshape(self.shape[::-1]).T if self.transposed else mine.reshape(self.shape)
        return np.ascontiguousarray(tensor)

    def load(self, tensor: Shaped[np.ndarray, "..."], into: Shaped[np.ndarray, "..."]) -> None:
        """Undo `export`: write the tensor to its place in our parameter."""
        place = self._of(into)
        place[...] = self.shaped(tensor, place.shape)

    def shaped(
        self, tensor: Shaped[np.ndarray, "..."], shape: tuple[int, ...]
    ) -> Shaped[np.ndarray, "..."]:
        """Return the tensor as a view in the shape of its place in our parameter."""
        return (tensor.T if self.transposed else tensor).reshape(shape)

    def _of(self, parameter: Any) -> Any:
        """Cut it out of our parameter, as a view; the vocabulary's padding is left out."""
        if self.layer is None:
            return parameter[: self.shape[0]]
        return parameter[self.layer] if self.part is None else parameter[self.layer][:, self.part]


def tensors(config: ModelConfig) -> Iterator[Tensor]:
    """Yield the tensors of a model: the embedding, layer by layer, and what comes after them."""
    shape = config.vocab_size, config.d_model
    if config.family == "llama":
        yield Tensor("model.embed_tokens.weight", shape, ("tokens", "table"))
        for layer in range(config.n_layers):
            yield from _llama_layer(config, layer)
        yield Tensor("model.norm.weight", shape[1:], ("norm", "scale"))
    else:
        yield Tensor("transformer.wte.weight", shape, ("tokens", "table"))
        positions = config.sequence_length, config.d_model
        yield Tensor("transformer.wpe.weight", positions, ("positions", "table"))
        for layer in range(config.n_layers):
            yield from _gpt2_layer(config, layer)
        yield Tensor("transformer.ln_f.weight", shape[1:], ("norm", "scale"))
        yield Tensor("transformer.ln_f.bias", shape[1:], ("norm", "bias"))
    if not config.tied:
        yield Tensor("lm_head.weight", shape, ("output", "table"))


def _gpt2_layer(config: ModelConfig, layer: int) -> Iterator[Tensor]:
    width, hidden = config.d_model, config.feed_forward
    for theirs, ours, weight, shape in (
        ("ln_1", "attention_norm", "scale", (width,)),
        ("attn.c_attn", "qkv", "kernel", (width, 3 * width)),
        ("attn.c_proj", "attention_output", "kernel", (width, width)),
        ("ln_2", "feed_forward_norm", "scale", (width,)),
        ("mlp.c_fc", "up", "kernel", (width, hidden)),
        ("mlp.c_proj", "down", "kernel", (hidden, width)),
    ):
        name = f"transformer.h.{layer}.{theirs}"
        yield Tensor(f"{name}.weight", shape, ("blocks", ours, weight), layer)
        yield Tensor(f"{name}.bias", shape[-1:], ("blocks", ours, "bias"), layer)


def _llama_layer(config: ModelConfig, layer: int) -> Iterator[Tensor]:
    width, hidden = config.d_model, config.feed_forward
    queries, keys = (heads * config.head_dim for heads in (config.n_heads, config.kv_heads))
    start = f"model.layers.{layer}"
    for theirs, ours in (
        ("input_layernorm", "attention_norm"),
        ("post_attention_layernorm", "feed_forward_norm"),
    ):
        yield Tensor(f"{start}.{theirs}.weight", (width,), ("blocks", ours, "scale"), layer)
    for theirs, ours, part, shape in (
        ("self_attn.q_proj", "q", None, (queries, width)),
        ("self_attn.k_proj", "kv", 0, (keys, width)),
        ("self_attn.v_proj", "kv", 1, (keys, width)),
        ("self_attn.o_proj", "attention_output", None, (width, queries)),
        ("mlp.gate_proj", "up", 0, (hidden, width)),
        ("mlp.up_proj", "up", 1, (hidden, width)),
        ("mlp.down_proj", "down", None, (width, hidden)),
    ):
        path = ("blocks", ours, "kernel")
        yield Tensor(f"{start}.{theirs}.weight", shape, path, layer, part, transposed=True)
