"""The optimizer and its learning rates, as a recipe gives them."""

from dataclasses import dataclass
from typing import Literal, get_args

from fugaku_jax.sections.checks import require, require_fraction, require_positive

Kind = Literal["adamw", "lion", "muon", "adafactor", "sgd", "recipe"]


@dataclass(frozen=True)
class OptimizerConfig:
    """The optimizer and its learning-rate schedule, which is counted in tokens."""

    learning_rate: float
    """Peak learning rate."""
    kind: Kind = "adamw"
    """`adamw` by our own kernel, one of optax's, or `recipe`: the optax transformation that the
    recipe's `optimizer` returns."""
    min_learning_rate: float = 0.0
    """Learning rate at the end of the decay."""
    schedule: Literal["cosine", "wsd"] = "cosine"
    """`cosine` over tokens, or `wsd`: warm-up, stable, linear decay."""
    warmup_tokens: int = 0
    """Tokens of the linear warm-up."""
    decay_tokens: int | None = None
    """Cosine: tokens at which the decay ends, those of the run if not given. WSD: tokens of the
    final decay, a tenth of the run if not given, or what the warm-up leaves of that."""
    beta1: float = 0.9
    """Decay of the first moment; of the only one with muon and sgd. With lion the weight of the
    mean in what is added. Adafactor has none."""
    beta2: float = 0.95
    """Decay of the second moment; with lion of the mean."""
    epsilon: float = 1e-8
    """Added to the root of the second moment, with adamw and muon."""
    weight_decay: float = 0.1
    """Decoupled decay of matrices; biases and norms have none."""
    clip: float = 1.0
    """Largest global norm of the gradient; 0 for no clipping."""

    def __post_init__(self) -> None:
        kinds = get_args(Kind)
        require(self.kind in kinds, "optimizer.kind", self.kind, " or ".join(kinds))
        require_positive(self, "optimizer", "learning_rate", "epsilon")
        require_fraction(self, "optimizer", "beta1", "beta2")
        for name in ("min_learning_rate", "warmup_tokens", "weight_decay", "clip"):
            value = getattr(self, name)
            require(value >= 0, f"optimizer.{name}", value, "at least 0")
        decay, warmup = self.decay_tokens, self.warmup_tokens
        require(decay is None or decay > 0, "optimizer.decay_tokens", decay, "greater than 0")
        require(
            decay is None or self.schedule == "wsd" or decay > warmup,
            "optimizer.decay_tokens",
            decay,
            f"greater than optimizer.warmup_tokens, {warmup}, after which a cosine begins to fall",
        )
        require(
            self.min_learning_rate <= self.learning_rate,
            "optimizer.min_learning_rate",
            self.min_learning_rate,
            f"at most optimizer.learning_rate, {self.learning_rate!r}",
        )
