"""Checkpoints on the way and at the end of a session."""

from typing import Any

from fugaku_jax.errors import RunError
from fugaku_jax.layout.layout import Layout
from fugaku_jax.training.checkpoint import RunCheckpoints
from fugaku_jax.training.hooks.hook import CompletedStep, Hook


class Save(Hook):
    """Saves sound states: every `checkpoint.every` steps, where it is asked for, and the last.

    A step that was skipped may be the first of many, which the weights before it are the cause of.
    So what is due then waits for a step that was taken.

    Args:
        checkpoints: where to.
        layout: the run on its mesh.
        identity: what the numbers mean, as JSON can hold it.
    """

    time_is_for = "save"

    def __init__(
        self, checkpoints: RunCheckpoints, layout: Layout, identity: dict[str, Any]
    ) -> None:
        self._checkpoints, self._layout, self._identity = checkpoints, layout, identity
        self._is_overdue = False

    def needs_state(self, step: int) -> bool:
        """Tell whether it is time; the state after the last step is given anyway."""
        return self._is_overdue or step % self._layout.config.checkpoint.every == 0

    def after_step(self, done: CompletedStep) -> None:
        """Start to save, if it is time.

        Raises:
            RunError: the last step must not be saved; or as `RunCheckpoints.save`.
        """
        is_due = done.is_last or done.save_asked or self.needs_state(done.number)
        if done.state is None or not is_due:
            return
        self._is_overdue = bool(done.why_unsound or done.figures["skipped"]) and not done.is_last
        if self._is_overdue:
            return
        if not done.why_unsound:
            self._checkpoints.save(done.number, self._layout, done.state, self._identity)
        else:
            raise RunError(
                f"{done.why_unsound} at step {done.number}, so that step was not saved; "
                f"{self._checkpoints.safe()}. Try a lower optimizer.learning_rate or another "
                "training.precision in a new directory."
            )
