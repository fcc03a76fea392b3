"""The figures and samples of steps, on the screen."""

from fugaku_jax.training.hooks.hook import CompletedStep, Hook
from fugaku_jax.training.progress import Progress


class Show(Hook):
    """Shows what the hooks before it have found of a step; of the writing process alone."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def after_step(self, done: CompletedStep) -> None:
        """Show."""
        self._progress.step(done.number, done.figures)
        for prompt, text in done.samples:
            self._progress.sample(done.number, prompt, text)
