"""The loop of a run, as a recipe gives it."""

from dataclasses import dataclass
from typing import Literal

from fugaku_jax.sections.checks import (
    require,
    require_listed,
    require_not_negative,
    require_positive,
)


@dataclass(frozen=True)
class TrainingConfig:
    """The loop: how much, how precisely, and what is shown on the way."""

    steps: int
    """Optimizer steps of the run."""
    batch_size: int
    """Samples a step (B), over all micro-batches and devices."""
    micro_batches: int = 1
    """Parts a batch is split into, whose gradients are accumulated; must divide `batch_size`."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Arithmetic of the forward and backward pass; master weights are fp32 always. fp16 scales
    the loss dynamically."""
    remat: Literal["none", "products", "block"] = "none"
    """What a block recomputes in the backward pass rather than keeps: nothing but attention's
    weights and elementwise functions; all but its products with weights; or all."""
    z_loss: float = 0.0
    """Weight of the squared log-partition added to the loss; 0 for none."""
    seed: int = 1234
    """Seed of initial weights and dropout."""
    validate_every: int = 100
    """Steps between validations; 0 for none but the last."""
    patience: int = 0
    """Validations without a better one after which the run ends, its best step being its newest;
    0 for never."""
    validation_tokens: int = 65_536
    """Most held-out tokens of a domain that a validation reads."""
    sample_every: int = 0
    """Steps between samples of generated text; 0 for none but the last."""
    sample_tokens: int = 64
    """Tokens a sample has; 0 for no samples at all."""
    prompts: tuple[str, ...] = ("むかしむかし、", "In the beginning")
    """Prompts of the samples."""
    spike_deviations: float = 0.0
    """Leave out the update of a step whose loss or gradient norm is more than this many standard
    deviations above that of the last 128 steps (6 is a good start); 0 for none."""
    most_skipped: int = 30
    """Steps left out in a row after which the run goes back to its last checkpoint and past the
    batches that they read; fp16 needs some 20 until its loss scale fits."""
    check_replicas_every: int = 0
    """Steps between two comparisons, bit by bit, of what several devices hold of the state alike,
    which are then made before each save too; 0 for none."""
    repeat_every: int = 0
    """Steps between two that are taken twice, to hold one result to the other, for which the memory
    of a second state is needed. 0 for none."""
    document_losses: bool = False
    """Keep the loss of each document whenever it is read, for `launch/trace.py RUN loss`."""
    stop_after: int | None = None
    """Stop after this many steps of this session, saved, with exit code 75, as a time limit
    would."""
    stop_before_limit: float | None = None
    """Save and stop, with exit code 75, this many seconds before the end of the job, as Slurm or
    FUGAKU_JAX_JOB_END tells it."""
    self_test: bool = True
    """With several processes, test the products, memory and links of each before the first step."""
    hang_seconds: float = 600.0
    """Seconds without a completed step after which the job ends, naming the rank that is behind; or
    ten times what the slowest step took, if that is longer; 0 for never. A silent rank ends it
    after as long, or two minutes if that is shorter."""

    def __post_init__(self) -> None:
        require_positive(self, "training", "steps", "batch_size", "micro_batches", "most_skipped")
        require_listed(self, "training", "precision", "remat")
        require(self.steps < 2**31, "training.steps", self.steps, "less than 2^31")
        require_not_negative(
            self,
            "training",
            *("z_loss", "seed", "validate_every", "sample_every", "sample_tokens"),
            *(
                "patience",
                "spike_deviations",
                "check_replicas_every",
                "repeat_every",
                "hang_seconds",
            ),
        )
        require(self.repeat_every != 1, "training.repeat_every", 1, "0 or at least 2")
        before = self.stop_before_limit
        require(before is None or before >= 0, "training.stop_before_limit", before, "at least 0")
        require_positive(self, "training", "validation_tokens")
        stop = self.stop_after
        require(stop is None or stop > 0, "training.stop_after", stop, "greater than 0")
        require(
            self.batch_size % self.micro_batches == 0,
            "training.micro_batches",
            self.micro_batches,
            f"a divisor of training.batch_size, {self.batch_size}",
        )
