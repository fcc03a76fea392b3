"""How fast steps are, what share of the time they are, and what memory they take."""

from fugaku_jax.config import Config
from fugaku_jax.models.size import flops_per_token
from fugaku_jax.run.metrics import peak_memory_bytes
from fugaku_jax.training.hooks.hook import CompletedStep, Hook
from fugaku_jax.training.throughput import Peak
from fugaku_jax.training.time_spent import TimeSpent


class Speed(Hook):
    """Adds tokens, tokens a second, model FLOPs used, goodput and memory to a step's figures.

    Args:
        config: the run.
        peak: what its processors can do at most.
        spent: where the time of the session goes.
    """

    def __init__(self, config: Config, peak: Peak, spent: TimeSpent) -> None:
        self._spent = spent
        self._tokens = config.tokens_per_step
        self._flops_of_peak = flops_per_token(config.model) / peak.flops

    def after_step(self, done: CompletedStep) -> None:
        """Add the figures."""
        speed = self._tokens / done.seconds
        done.figures |= {
            "tokens": done.number * self._tokens,
            "tokens_per_second": speed,
            "step_seconds": done.seconds,
            "mfu": speed * self._flops_of_peak,
            "goodput": self._spent.goodput(),
            "memory_bytes": peak_memory_bytes(),
        }
