"""Steps that went wrong: what must not be saved, and when to give up."""

import math
from collections.abc import Callable

from fugaku_jax.errors import RunError
from fugaku_jax.training.hooks.hook import CompletedStep, Hook

MOST_SKIPPED_STEPS = 30
"""Steps in a row without a finite gradient before the run gives up: more than fp16's loss scale
needs to fall from its start to 1."""

ADVICE = "Try a lower optimizer.learning_rate or another training.precision in a new directory."


class Guard(Hook):
    """Keeps a step whose loss is not finite from being saved; ends a run that only skips steps.

    It ends it before the last skipped step is saved. One more step may be in flight by then, which
    leaves nothing.

    Args:
        safe: says which checkpoint the run can go on from.
    """

    def __init__(self, safe: Callable[[], str]) -> None:
        self._safe = safe
        self._skipped = 0  # in a row

    def after_step(self, done: CompletedStep) -> None:
        """Look at loss and gradient.

        Raises:
            RunError: too many steps in a row were skipped.
        """
        if not math.isfinite(done.figures["loss"]):
            done.why_unsound = "The loss is not finite"
        self._skipped = self._skipped + 1 if done.figures["skipped"] else 0
        if self._skipped >= MOST_SKIPPED_STEPS:
            raise RunError(
                f"The gradient was not finite in {self._skipped} steps up to step {done.number}, "
                f"each of which left the weights as they were; {self._safe()}. {ADVICE}"
            )
