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
        wishes: each tells whether this process wishes it: because of a signal, or of the time.
    """

    def __init__(self, *wishes: Callable[[], bool]) -> None:
        self._wishes = wishes
        self._answer: Callable[[], bool] | None = None

    def after_step(self, done: CompletedStep) -> None:
        """Ask all processes, and hear what they said after the step before."""
        wish = any(each() for each in self._wishes)
        if jax.process_count() == 1:
            done.stop_asked |= wish
            return
        answer, self._answer = self._answer, ask_all(wish)
        done.stop_asked |= answer is not None and answer()
