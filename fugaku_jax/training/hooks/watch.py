"""Progress, as the watchdog hears of it."""

from collections.abc import Sequence

import jax

from fugaku_jax.cluster.watchdog import Watchdog
from fugaku_jax.config import Config
from fugaku_jax.layout.mesh import given_rank_map
from fugaku_jax.layout.torus import process_places
from fugaku_jax.training.hooks.hook import CompletedStep, Hook
from fugaku_jax.training.state import TrainState


class Watch(Hook):
    """Tells the watchdog of each step, after all other hooks are done with it.

    Args:
        config: the run.
        watchdog: what ends the job if the next step is not completed in time.
        others: the hooks of this process before this one. A step after which one of them needs the
            state may take longer.
    """

    def __init__(self, config: Config, watchdog: Watchdog, others: Sequence[Hook]) -> None:
        self._config, self._watchdog, self._others = config, watchdog, others

    def start(self, step: int, state: TrainState) -> None:  # noqa: ARG002
        """Begin to watch."""
        places = process_places(self._config.mesh, jax.process_count(), given_rank_map())
        self._watchdog.watch(self._config.training.hang_seconds, dict(enumerate(places)), step)

    def after_step(self, done: CompletedStep) -> None:
        """Tell that the step is done."""
        following = done.number + 1
        long = done.is_last or any(hook.needs_state(following) for hook in self._others)
        self._watchdog.completed(done.number, long)

    def stop(self) -> None:
        """Watch no more."""
        self._watchdog.rest()
