"""The wish to stop, which any process may hear of and all must follow."""

from collections.abc import Callable

from fugaku_jax.cluster.decisions import CommonStop
from fugaku_jax.training.hooks.hook import CompletedStep, Hook
from fugaku_jax.training.state import TrainState


class Stop(Hook):
    """Ends the session once a process wishes it.

    A wish that comes while step n runs ends the session after step n+1, which waits behind it; with
    several processes, after n+3, for all to hear of it in time.

    Args:
        wishes: each tells whether this process wishes it: because of a signal, or of the time.
    """

    def __init__(self, *wishes: Callable[[], bool]) -> None:
        self._wishes = wishes

    def start(self, step: int, state: TrainState) -> None:  # noqa: ARG002
        """Begin to listen."""
        self._stop = CommonStop()

    def after_step(self, done: CompletedStep) -> None:
        """Tell the others, or hear what they wish."""
        wish = any(each() for each in self._wishes)
        done.stop_asked |= self._stop.is_due(done.number, wish)
