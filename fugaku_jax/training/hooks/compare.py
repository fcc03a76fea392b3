"""Which processes are slow: as all take as long as the slowest does, each is timed alone."""

import math
import time
from collections.abc import Callable

import numpy as np

from fugaku_jax.cluster.decisions import decided
from fugaku_jax.cluster.outliers import slow_ones
from fugaku_jax.cluster.rank_names import RankNames
from fugaku_jax.run.stragglers import Pace, Stragglers
from fugaku_jax.training.hooks.hook import CompletedStep, Hook
from fugaku_jax.training.probe import Probe
from fugaku_jax.training.state import TrainState

ROWS = 256
PROBE_SECONDS = 0.02
SHARE = 0.0025
"""Of the time of all steps, what comparisons take; that no step is in flight then costs as much."""
FIRST_AFTER = 10
"""Steps of a session before its first comparison, and at least between two."""
SLOW_DATA = 0.05
"""How much more of its time than the median process one may wait for data."""
SHOWN = 5
"""The slowest processes that are written down."""


class Compare(Hook):
    """Has each process time a product of its own and its waits for data, and compares them.

    It does so while no step is in flight, as seldom as it must be to cost little. Rank 0 compares.

    Args:
        waited: tells how many seconds this process has waited for data so far.
        names: what to call ranks.
        tell: is called at the end with what was found; of the process that writes alone.
    """

    def __init__(
        self,
        waited: Callable[[], float],
        names: RankNames,
        tell: Callable[[Stragglers], None] | None,
    ) -> None:
        self._waited, self._names, self._tell = waited, names, tell
        self._found: list[np.ndarray] = []  # [P, 2] each: seconds of the probe, share of waiting
        self._cost = 0.0

    def start(self, step: int, state: TrainState) -> None:  # noqa: ARG002
        """Compile the product."""
        self._probe = Probe(ROWS)
        self._next = step + FIRST_AFTER
        self._before = step, time.perf_counter(), self._waited()

    def needs_state(self, step: int) -> bool:
        """Tell whether it is time."""
        return step == self._next

    def after_step(self, done: CompletedStep) -> None:
        """Compare, if it is time."""
        if not self.needs_state(done.number):
            return
        begun = time.perf_counter()
        step, since, waited = self._before
        passed, self._before = begun - since, (done.number, begun, self._waited())
        probe = self._probe.seconds(PROBE_SECONDS)
        cost = max(self._cost, time.perf_counter() - begun)
        mine = [probe, (self._waited() - waited) / passed, cost, passed / (done.number - step)]
        self._next = done.number + decided("paces", mine, self._compare)
        self._cost = time.perf_counter() - begun

    def _compare(self, said: list[list[float]]) -> int:
        """Note what all have found; return after how many steps to compare again."""
        found = np.array(said)
        self._found.append(found[:, :2])
        _, _, costs, steps = found.T
        return max(math.ceil(costs.max() / (SHARE * np.median(steps))), FIRST_AFTER)

    def stop(self) -> None:
        """Tell what was found, if anything was."""
        if not self._found or not self._tell:
            return
        probes, waits = np.median(np.stack(self._found), axis=0).T
        slow = {*slow_ones(probes.tolist())} | {
            int(rank) for rank in np.flatnonzero(waits > np.median(waits) + SLOW_DATA)
        }
        # Those that are slow come first, however they are.
        order = sorted(range(len(probes)), key=lambda rank: (rank not in slow, -probes[rank]))
        slowest = tuple(
            Pace(self._names([rank]), float(probes[rank]), float(waits[rank]), rank in slow)
            for rank in order[:SHOWN]
        )
        medians = float(np.median(probes)), float(np.median(waits))
        self._tell(Stragglers(len(self._found), *medians, slowest))
