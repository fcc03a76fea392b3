"""The best step is kept, and a run that gets no better ends there."""

from pathlib import Path

from fugaku_jax.run.best import Best, best_until
from fugaku_jax.training.checkpoint import RunCheckpoints
from fugaku_jax.training.hooks.hook import CompletedStep, Hook
from fugaku_jax.training.state import TrainState


class KeepBest(Hook):
    """Has a step saved that predicts held-out text better than all before, and keeps it.

    Args:
        run_dir: the run.
        checkpoints: where the best is kept.
        patience: validations without a better one after which the session ends.
    """

    def __init__(self, run_dir: Path, checkpoints: RunCheckpoints, patience: int) -> None:
        self._run_dir, self._checkpoints, self._patience = run_dir, checkpoints, patience
        self.best = Best()

    @property
    def has_ended(self) -> bool:
        """Whether the run has waited long enough for a better step."""
        return self.best.worse >= self._patience

    def start(self, step: int, state: TrainState) -> None:  # noqa: ARG002
        """Read which step was the best of the sessions before."""
        self.best = best_until(self._run_dir, step)
        self._checkpoints.keep(self.best.step or None)

    def after_step(self, done: CompletedStep) -> None:
        """Look at a validation, if there was one of a step that was taken."""
        loss = done.figures.get("validation_loss")
        if loss is None or done.figures["skipped"] or done.why_unsound:
            return
        self.best = self.best.after(done.number, loss)
        if self.best.step == done.number:
            self._checkpoints.keep(done.number)
            done.save_asked = True
        done.stop_asked |= self.has_ended
