"""Which tokens a run reads, as a recipe gives it."""

from dataclasses import dataclass
from typing import Literal

from fugaku_jax.sections.checks import require, require_listed, require_positive


@dataclass(frozen=True)
class DataConfig:
    """Where the tokens come from."""

    store: str = "builtin"
    """Path or TensorStore URL of a token store, or `builtin` for the generated corpus."""
    seed: int = 1234
    """Seed of the order of samples."""
    reset_at_document: bool = False
    """Whether attention and positions start anew after an end-of-document token."""
    learn: Literal["all", "answers"] = "all"
    """Which tokens count in the loss: all, or the answers of a store of dialogues."""
    prompt_weight: float = 0.0
    """What the other tokens of a dialogue, its questions and their frame, count in the loss of a
    step, where a token of an answer counts 1. Held-out loss is of answers alone."""
    prefetch: int = 2
    """Batches read ahead of the step."""

    def __post_init__(self) -> None:
        require(bool(self.store), "data.store", self.store, "a path, a URL or `builtin`")
        require_positive(self, "data", "prefetch")
        require(self.seed >= 0, "data.seed", self.seed, "at least 0")
        require_listed(self, "data", "learn")
        require(
            self.learn == "all" or self.reset_at_document,
            "data.reset_at_document",
            self.reset_at_document,
            "true with data.learn answers, whose dialogues share rows",
        )
        weight, most = self.prompt_weight, 1.0 if self.learn == "answers" else 0.0
        allowed = "from 0 to 1 with data.learn answers, else 0"
        require(0 <= weight <= most, "data.prompt_weight", weight, allowed)
