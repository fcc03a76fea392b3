"""What of a trained model is tuned, as a recipe gives it."""

from dataclasses import dataclass
from typing import Literal

from fugaku_jax.sections.checks import require, require_listed, require_positive

LORA_TARGETS = {
    "gpt2": ("c_attn", "c_proj", "c_fc"),
    "llama": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
}
"""The matrices of a block by their names in `transformers`, of each family of models."""


@dataclass(frozen=True)
class TuningConfig:
    """All weights are learned, or by LoRA low-rank adapters beside weights that stay."""

    method: Literal["full", "lora"] = "full"
    """`full`: all weights are learned. `lora`: `W + alpha / rank * A B` in the place of a matrix
    `W` that stays as it is, of which A and B are learned."""
    rank: int = 16
    """Of the adapters: columns of A, rows of B."""
    alpha: float = 32.0
    """What the adapters are multiplied by, times the rank."""
    targets: tuple[str, ...] = ()
    """The matrices of each block that have adapters, by their names in `transformers`: c_attn,
    c_proj (of attention and of the feed-forward layer), c_fc; of LLaMA q_proj, k_proj, v_proj,
    o_proj, gate_proj, up_proj, down_proj. All if none is given."""

    def __post_init__(self) -> None:
        require_listed(self, "tuning", "method")
        require_positive(self, "tuning", "rank", "alpha")
        distinct = len(set(self.targets)) == len(self.targets)
        require(distinct, "tuning.targets", self.targets, "names of which none is repeated")
