"""Checkpoints on the way and at the end of a session."""

from typing import Any

from fugaku_jax.errors import RunError
from fugaku_jax.layout.layout import Layout
from fugaku_jax.training.checkpoint import RunCheckpoints
from fugaku_jax.training.hooks.guard import ADVICE
from fugaku_jax.training.hooks.hook import CompletedStep, Hook


class Save(Hook):
    """Saves sound states: every `checkpoint.every` steps, and that after the session's last step.

    Args:
        checkpoints: where to.
        layout: the run on its mesh.
        identity: what the numbers mean, as JSON can hold it.
    """

    def __init__(
        self, checkpoints: RunCheckpoints, layout: Layout, identity: dict[str, Any]
    ) -> None:
        self._checkpoints, self._layout, self._identity = checkpoints, layout, identity

    def needs_state(self, step: int) -> bool:
        """Tell whether it is time; the state after the last step is given anyway."""
        return step % self._layout.config.checkpoint.every == 0

    def after_step(self, done: CompletedStep) -> None:
        """Start to save, if it is time.

        Raises:
            RunError: the last step must not be saved; or as `RunCheckpoints.save`.
        """
        if done.state is None or not (done.is_last or self.needs_state(done.number)):
            return
        if not done.why_unsound:
            self._checkpoints.save(done.number, self._layout, done.state, self._identity)
        elif done.is_last:
            raise RunError(
                f"{done.why_unsound} at step {done.number}, so that step was not saved; "
                f"{self._checkpoints.safe()}. {ADVICE}"
            )
