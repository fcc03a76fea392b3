"""A run as data: frozen dataclasses whose values are checked when they are made.

A recipe in `configs/` returns a `Config`; the command line overrides single fields of it.
"""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from fugaku_jax.json_types import typed
from fugaku_jax.sections.checkpoint import CheckpointConfig
from fugaku_jax.sections.checks import require
from fugaku_jax.sections.data import DataConfig
from fugaku_jax.sections.mesh import MeshConfig
from fugaku_jax.sections.model import ModelConfig
from fugaku_jax.sections.optimizer import OptimizerConfig
from fugaku_jax.sections.training import TrainingConfig
from fugaku_jax.sections.tuning import TuningConfig, check_tuning

__all__ = [
    "CheckpointConfig",
    "Config",
    "DataConfig",
    "MeshConfig",
    "ModelConfig",
    "OptimizerConfig",
    "TrainingConfig",
    "TuningConfig",
    "config_from_dict",
    "flat_fields",
]

WSD_DECAY_FRACTION = 0.1
"""Share of a run over which `wsd` lets the learning rate fall, if not told otherwise."""


@dataclass(frozen=True)
class Config:
    """Everything that determines a run."""

    model: ModelConfig
    """The shape of the model."""
    optimizer: OptimizerConfig
    """The optimizer and its schedule."""
    training: TrainingConfig
    """Steps, batch and precision."""
    data: DataConfig = field(default_factory=DataConfig)
    """The token store and its order."""
    mesh: MeshConfig = field(default_factory=MeshConfig)
    """Data, tensor, context and pipeline parallelism."""
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    """Saving and retention."""
    tuning: TuningConfig = field(default_factory=TuningConfig)
    """Whether all weights are learned, or adapters beside them."""

    def __post_init__(self) -> None:
        optimizer, total = self.optimizer, self.total_tokens
        decay, warmup = optimizer.decay_tokens, optimizer.warmup_tokens
        require(
            decay is None or optimizer.schedule != "wsd" or warmup + decay <= total,
            "optimizer.decay_tokens",
            decay,
            f"at most what optimizer.warmup_tokens, {warmup}, leave of the run's {total} tokens",
        )
        check_tuning(self.tuning, self.model, self.data, self.mesh, self.training)

    @property
    def tokens_per_step(self) -> int:
        """Tokens that one optimizer step learns from."""
        return self.training.batch_size * self.model.sequence_length

    @property
    def total_tokens(self) -> int:
        """Tokens of the whole run."""
        return self.training.steps * self.tokens_per_step

    @property
    def decay_span(self) -> tuple[float, float]:
        """Tokens at which the learning rate begins to fall, and at which it has fallen.

        Both are the same where the run ends before the warm-up does.
        """
        optimizer, total = self.optimizer, self.total_tokens
        if optimizer.schedule == "cosine":
            start, end = optimizer.warmup_tokens, optimizer.decay_tokens or total
        else:
            final = optimizer.decay_tokens or total * WSD_DECAY_FRACTION
            start, end = max(total - final, optimizer.warmup_tokens), total
        return min(start, end), end

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration as nested dictionaries that JSON can hold."""
        as_dict = dataclasses.asdict(self)
        as_dict["training"]["prompts"] = list(self.training.prompts)
        as_dict["mesh"]["layers"] = list(self.mesh.layers)
        as_dict["tuning"]["targets"] = list(self.tuning.targets)
        return as_dict


def flat_fields(nested: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested dictionaries to `{"model.n_layers": 4, ...}`."""
    flat: dict[str, Any] = {}
    for name, value in nested.items():
        path = f"{prefix}{name}"
        if isinstance(value, dict):
            flat |= flat_fields(value, f"{path}.")
        else:
            flat[path] = value
    return flat


def config_from_dict(nested: dict[str, Any]) -> Config:
    """Rebuild a `Config` from what `Config.to_dict` gave, also in files of before.

    Raises:
        InputError: a field is unknown, missing, of another type or has a value that is not allowed.
    """
    mesh = nested.get("mesh")
    if isinstance(mesh, dict) and mesh.get("weights") == "sharded":  # what `fsdp` was called
        mesh = mesh | {"weights": "fsdp"}
    if isinstance(mesh, dict) and mesh.get("collective") in ("bucket", "turned"):  # are no more
        mesh = mesh | {"collective": "torus"}
    nested = nested | ({} if mesh is None else {"mesh": mesh})
    return typed(Config, nested)
