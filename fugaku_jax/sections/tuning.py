"""What of a trained model is tuned, as a recipe gives it."""

from dataclasses import dataclass
from typing import Literal

from fugaku_jax.sections.checks import require, require_listed, require_positive
from fugaku_jax.sections.data import DataConfig
from fugaku_jax.sections.mesh import MeshConfig
from fugaku_jax.sections.model import ModelConfig
from fugaku_jax.sections.training import TrainingConfig

WITH_ADAPTERS = ("lora", "lora-dpo")
"""The ways of tuning in which weights stay as they are, and adapters beside them are learned."""
OF_PAIRS = ("dpo", "lora-dpo")
"""Those that learn from pairs of answers."""
LORA_TARGETS = {
    "gpt2": ("c_attn", "c_proj", "c_fc"),
    "llama": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
}
"""The matrices of a block by their names in `transformers`, of each family of models."""


@dataclass(frozen=True)
class TuningConfig:
    """All weights are learned, or by LoRA low-rank adapters beside weights that stay."""

    method: Literal["full", "lora", "dpo", "lora-dpo"] = "full"
    """`full`: all weights are learned. `lora`: `W + alpha / rank * A B` in the place of a matrix
    `W` that stays as it is, of which A and B are learned. `dpo`: all weights are learned, from
    pairs of a chosen and a rejected answer. `lora-dpo`: adapters are, from pairs."""
    rank: int = 16
    """Of the adapters: columns of A, rows of B."""
    alpha: float = 32.0
    """What the adapters are multiplied by, times the rank."""
    beta: float = 0.1
    """DPO: how much a difference to the model that it began with counts."""
    targets: tuple[str, ...] = ()
    """The matrices of each block that have adapters, by their names in `transformers`: c_attn,
    c_proj (of attention and of the feed-forward layer), c_fc; of LLaMA q_proj, k_proj, v_proj,
    o_proj, gate_proj, up_proj, down_proj. All if none is given."""

    def __post_init__(self) -> None:
        require_listed(self, "tuning", "method")
        require_positive(self, "tuning", "rank", "alpha", "beta")
        distinct = len(set(self.targets)) == len(self.targets)
        require(distinct, "tuning.targets", self.targets, "names of which none is repeated")


def check_tuning(
    tuning: TuningConfig,
    model: ModelConfig,
    data: DataConfig,
    mesh: MeshConfig,
    training: TrainingConfig,
) -> None:
    """Refuse what does not go with the way of tuning.

    Raises:
        InputError: so it is.
    """
    if tuning.method in WITH_ADAPTERS:
        names = ", ".join(LORA_TARGETS[model.family])
        known = set(tuning.targets) <= set(LORA_TARGETS[model.family])
        allowed = f"some of {names}, the matrices of model.family {model.family}"
        require(known, "tuning.targets", tuning.targets, allowed)
        allowed = f"at most model.d_model, {model.d_model}"
        require(tuning.rank <= model.d_model, "tuning.rank", tuning.rank, allowed)
    if tuning.method in OF_PAIRS:
        method = f"tuning.method {tuning.method}"
        learn, context, kept = data.learn, mesh.context, training.document_losses
        require(learn == "answers", "data.learn", learn, f"answers with {method}")
        require(context == 1, "mesh.context", context, f"1 with {method}")
        prompt_weight, z_loss = data.prompt_weight, training.z_loss
        allowed = f"0 with {method}"
        require(not prompt_weight, "data.prompt_weight", prompt_weight, allowed)
        require(not z_loss, "training.z_loss", z_loss, f"0 with {method}")
        require(not kept, "training.document_losses", kept, f"false with {method}")
