"""The shape of a model, as a recipe gives it."""

from dataclasses import dataclass
from typing import Literal

from fugaku_jax.errors import InputError
from fugaku_jax.sections.checks import require, require_fraction, require_listed, require_positive


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a decoder of one of two families."""

    vocab_size: int
    """Tokens that may have probability: at least the tokenizer's pieces."""
    n_layers: int
    """Transformer blocks (L)."""
    d_model: int
    """Width of the residual stream (D)."""
    n_heads: int
    """Attention heads (H); must divide `d_model`."""
    sequence_length: int
    """Tokens a sample holds, and learned positions the model has (T)."""
    family: Literal["gpt2", "llama"] = "gpt2"
    """`gpt2`: learned positions, layer normalisation, GELU, biases. `llama`: rotary positions, RMS
    normalisation, SwiGLU, no biases."""
    d_ff: int | None = None
    """Width of the feed-forward layer (F). If not given, 4 x `d_model` with GPT-2, and with LLaMA
    two thirds of that, rounded up to a multiple of 64."""
    n_kv_heads: int | None = None
    """Heads of keys and values (G), each shared by neighbouring heads of queries; must divide
    `n_heads`, which it is if not given. GPT-2 has no other."""
    tied: bool = True
    """Whether the embedding is the output matrix too."""
    rope_theta: float = 10_000.0
    """Base of the rotary positions' wavelengths."""
    dropout: float = 0.0
    """Probability of dropping an element of a hidden state."""
    attention_dropout: float = 0.0
    """Probability of dropping an attention weight."""
    init_std: float = 0.02
    """Standard deviation of initial weights; output projections get it divided by sqrt(2 L)."""
    layer_norm_epsilon: float = 1e-5
    """Added to the variance in layer normalisation."""
    vocab_multiple: int = 128
    """The embedding gets rows up to a multiple of this; the padding never gets probability."""

    def __post_init__(self) -> None:
        require_positive(
            self, "model", "vocab_size", "n_layers", "d_model", "n_heads", "sequence_length"
        )
        require_positive(self, "model", "init_std", "layer_norm_epsilon", "vocab_multiple")
        require_positive(self, "model", "rope_theta")
        require_fraction(self, "model", "dropout", "attention_dropout")
        require(self.d_ff is None or self.d_ff > 0, "model.d_ff", self.d_ff, "greater than 0")
        if self.d_model % self.n_heads:
            raise InputError(
                f"model.n_heads is {self.n_heads}, but it must divide model.d_model, "
                f"which is {self.d_model}."
            )
        self._check_family()

    def _check_family(self) -> None:
        require_listed(self, "model", "family")
        groups, heads = self.kv_heads, self.n_heads
        if self.family == "gpt2":
            require(groups == heads, "model.n_kv_heads", groups, f"n_heads, {heads}, with gpt2")
            return
        allowed = f"a divisor of model.n_heads, {heads}"
        require(groups > 0 and heads % groups == 0, "model.n_kv_heads", groups, allowed)
        even = f"such that a head has an even width, not {self.head_dim}"
        require(self.head_dim % 2 == 0, "model.n_heads", heads, even)

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values (G)."""
        return self.n_heads if self.n_kv_heads is None else self.n_kv_heads

    @property
    def head_dim(self) -> int:
        """Width of one attention head (K)."""
        return self.d_model // self.n_heads

    @property
    def feed_forward(self) -> int:
        """Width of the feed-forward layer (F)."""
        if self.d_ff:
            return self.d_ff
        wide = 4 * self.d_model
        return wide if self.family == "gpt2" else -(-2 * wide // (3 * 64)) * 64

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the embedding (V): `vocab_size` rounded up to `vocab_multiple`."""
        return -(-self.vocab_size // self.vocab_multiple) * self.vocab_multiple
