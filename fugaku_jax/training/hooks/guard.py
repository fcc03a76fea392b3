"""Steps that went wrong: what must not be saved, and when the run goes back."""

import math
from collections.abc import Callable

from fugaku_jax.run.going_back import SickSteps
from fugaku_jax.training.hooks.hook import CompletedStep, Hook


class Guard(Hook):
    """Keeps a step whose loss is not finite from being saved; ends a session that only skips steps.

    It ends it before the last skipped step is saved. One more step may be in flight by then, which
    leaves nothing.

    Args:
        most_skipped: steps skipped in a row at which to end it.
        safe: says which checkpoint the run can go on from.
    """

    def __init__(self, most_skipped: int, safe: Callable[[], str]) -> None:
        self._most_skipped, self._safe = most_skipped, safe
        self._skipped = 0  # in a row

    def after_step(self, done: CompletedStep) -> None:
        """Look at loss and gradient.

        Raises:
            SickSteps: too many steps in a row were skipped.
        """
        if not math.isfinite(done.figures["loss"]):
            done.why_unsound = "The loss is not finite"
        self._skipped = self._skipped + 1 if done.figures["skipped"] else 0
        if self._skipped >= self._most_skipped:
            is_spike = bool(done.figures.get("spike"))
            why = f"Loss or gradient {'was far above the usual' if is_spike else 'was not finite'}"
            raise SickSteps(done.number + 1 - self._skipped, done.number, why, self._safe())
