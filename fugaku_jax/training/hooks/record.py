"""The figures and samples of steps, in the run's files."""

from fugaku_jax.run.metrics import MetricsWriter
from fugaku_jax.training.hooks.hook import CompletedStep, Hook


class Record(Hook):
    """Writes what the hooks before it have found of a step; of the writing process alone."""

    def __init__(self, metrics: MetricsWriter) -> None:
        self._metrics = metrics

    def after_step(self, done: CompletedStep) -> None:
        """Write."""
        self._metrics.write(done.number, done.figures)
        for prompt, text in done.samples:
            self._metrics.sample(done.number, prompt, text)
