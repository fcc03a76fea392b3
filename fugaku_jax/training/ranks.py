"""The processes of a run: named, tested before the first step, compared and watched on the way."""

from collections.abc import Callable, Sequence
from pathlib import Path

import jax

from fugaku_jax.cluster.processes import is_writer
from fugaku_jax.cluster.rank_names import RankNames
from fugaku_jax.cluster.watchdog import Watchdog
from fugaku_jax.layout.layout import Layout
from fugaku_jax.layout.mesh import process_places
from fugaku_jax.run.stragglers import Stragglers, record_stragglers
from fugaku_jax.training.hooks.compare import Compare
from fugaku_jax.training.hooks.hook import Hook
from fugaku_jax.training.hooks.watch import Watch
from fugaku_jax.training.self_test import self_test

Say = Callable[[str], None]


class Ranks:
    """What a run does about its processes.

    Args:
        layout: the run on its mesh.
        watchdog: what ends the process if a step is not completed in time; None if nothing does.
    """

    def __init__(self, layout: Layout, watchdog: Watchdog | None) -> None:
        self._layout, self._watchdog, self._training = layout, watchdog, layout.config.training
        self._several = jax.process_count() > 1
        self._names = watchdog.names if watchdog else RankNames()
        places = process_places(layout.config.mesh, jax.process_count())
        self._names.places = dict(enumerate(places))

    def test(self, say: Say) -> None:
        """Test all of several processes, as `self_test` does, if `training.self_test` asks for it.

        Raises:
            RunError: one computes wrongly.
        """
        if self._several and self._training.self_test:
            for line in self_test(self._layout.mesh, self._names):
                say(line)

    def hooks(
        self, run_dir: Path, say: Say, waited: Callable[[], float], others: Sequence[Hook]
    ) -> list[Hook]:
        """Return the hooks that compare and watch processes.

        Args:
            run_dir: where slow ones are written down.
            say: prints a line.
            waited: tells how many seconds this process has waited for data so far.
            others: the hooks before them.
        """
        hooks = list[Hook]()
        if self._several:

            def tell(found: Stragglers) -> None:
                record_stragglers(run_dir, found)
                for warning in found.warnings():
                    say(warning)

            hooks.append(Compare(waited, self._names, tell if is_writer() else None))
        if self._watchdog:
            seconds = self._training.hang_seconds
            hooks.append(Watch(self._watchdog, seconds, (*others, *hooks)))
        return hooks
