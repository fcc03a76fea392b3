"""When a run is saved, as a recipe gives it."""

from dataclasses import dataclass

from fugaku_jax.sections.checks import require_positive


@dataclass(frozen=True)
class CheckpointConfig:
    """How often the run is saved and what is kept."""

    every: int = 250
    """Steps between checkpoints; the last step is always saved."""
    keep: int = 2
    """Latest checkpoints that are kept."""

    def __post_init__(self) -> None:
        require_positive(self, "checkpoint", "every", "keep")
