"""The wish to stop, which any process may hear of and all must follow."""

from collections.abc import Callable

import jax

from fugaku_jax.collectives.votes import ask_all
from fugaku_jax.training.hooks.hook import CompletedStep, Hook


class Stop(Hook):
    """Ends the session once a process wishes it.

    A wish that comes while step n runs ends the session after step n+1, which waits behind it; with
    several processes, after n+2, as they ask each other behind the steps in flight.

    Args:
        wish: tells whether this process wishes it, for instance because of a signal.
    """

    def __init__(self, wish: Callable[[], bool]) -> None:
        self._wish = wish
        self._answer: Callable[[], bool] | None = None

    def after_step(self, done: CompletedStep) -> None:
        """Ask all processes, and hear what they said after the step before."""
        if jax.process_count() == 1:
            done.stop_asked |= self._wish()
            return
        answer, self._answer = self._answer, ask_all(self._wish())
        done.stop_asked |= answer is not None and answer()
