"""Progress, as the watchdog hears of it."""

from collections.abc import Sequence

from fugaku_jax.cluster.watchdog import Watchdog
from fugaku_jax.training.hooks.hook import CompletedStep, Hook
from fugaku_jax.training.state import TrainState


class Watch(Hook):
    """Tells the watchdog of each step, after all other hooks are done with it.

    Args:
        watchdog: what ends the job if the next step is not completed in time.
        hang_seconds: how long it may take.
        others: the hooks of this process before this one. A step after which one of them needs the
            state may take longer.
    """

    def __init__(self, watchdog: Watchdog, hang_seconds: float, others: Sequence[Hook]) -> None:
        self._watchdog, self._hang_seconds, self._others = watchdog, hang_seconds, others

    def start(self, step: int, state: TrainState) -> None:  # noqa: ARG002
        """Begin to watch."""
        self._watchdog.watch(self._hang_seconds, step)

    def after_step(self, done: CompletedStep) -> None:
        """Tell that the step is done."""
        following = done.number + 1
        long = done.is_last or any(hook.needs_state(following) for hook in self._others)
        self._watchdog.completed(done.number, long)

    def stop(self) -> None:
        """Watch no more."""
        self._watchdog.rest()
