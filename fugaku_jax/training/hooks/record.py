"""The figures and samples of steps, and where the time went, in the run's files."""

from pathlib import Path

from fugaku_jax.run.metrics import MetricsWriter
from fugaku_jax.run.sessions import record_seconds
from fugaku_jax.training.hooks.hook import CompletedStep, Hook
from fugaku_jax.training.time_spent import TimeSpent


class Record(Hook):
    """Writes what the hooks before it have found of a step; of the writing process alone."""

    def __init__(self, run_dir: Path, metrics: MetricsWriter, spent: TimeSpent) -> None:
        self._run_dir, self._metrics, self._spent = run_dir, metrics, spent

    def after_step(self, done: CompletedStep) -> None:
        """Write."""
        self._metrics.write(done.number, done.figures)
        for prompt, text in done.samples:
            self._metrics.sample(done.number, prompt, text)
        if done.state is not None:
            record_seconds(self._run_dir, self._spent.seconds(), has_ended=False)
