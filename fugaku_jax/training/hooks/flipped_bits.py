"""Bits that flip without a word: copies of the state are compared, and steps taken twice."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from fugaku_jax.errors import RunError
from fugaku_jax.training.digests import (
    Difference,
    differing_arrays,
    differing_replicas,
    name_devices,
)
from fugaku_jax.training.hooks.hook import CompletedStep, Hook
from fugaku_jax.training.state import TrainState
from fugaku_jax.training.step import Step


class Replicas(Hook):
    """Ends a run in which devices that hold the same part of the state hold other bits.

    It looks every so many steps, and whenever a state is about to be saved. What only one device
    holds, as with FSDP on a mesh without replicas, it cannot vouch for.

    Args:
        every: steps between two looks.
        safe: says which checkpoint the run can go on from.
        pipeline: mesh axes of the stages, as `differing_replicas` wants them.
    """

    def __init__(self, every: int, safe: Callable[[], str], pipeline: tuple[str, ...] = ()) -> None:
        self._every, self._safe, self._pipeline = every, safe, pipeline

    def needs_state(self, step: int) -> bool:
        """Tell whether it is time."""
        return step % self._every == 0

    def after_step(self, done: CompletedStep) -> None:
        """Compare, if the state is at hand.

        Raises:
            RunError: names an array, and the devices that hold something else.
        """
        if done.state is None:
            return
        found = differing_replicas(done.state, self._pipeline)
        if found:
            _end(done.number, found, "not the same as on the others that hold it", self._safe())


class Again(Hook):
    """Takes a step a second time, and ends a run in which that gives other bits.

    It needs the memory of a second state meanwhile.

    Args:
        every: steps between two that are taken again; at least 2.
        take_step: as the trainer takes it.
        safe: says which checkpoint the run can go on from.
    """

    def __init__(self, every: int, take_step: Step, safe: Callable[[], str]) -> None:
        self._every, self._take_step, self._safe = every, take_step, safe
        self._before: TrainState | None = None

    def needs_state(self, step: int) -> bool:
        """Tell whether it is time: the state before such a step is needed, and that after it."""
        return step % self._every in (0, self._every - 1)

    def after_step(self, done: CompletedStep) -> None:
        """Keep the state before, or take the step again.

        Raises:
            RunError: names an array, and the devices where it differs.
        """
        if done.state is None or not self.needs_state(done.number):
            return
        if done.number % self._every:
            self._before = jax.tree.map(jnp.copy, done.state)
        elif self._before is not None:
            before, self._before = self._before, None
            again, _ = self._take_step(before, done.batch)
            found = differing_arrays(done.state, again)
            if found:
                _end(done.number, found, "other when the step is taken again", self._safe())


def _end(step: int, found: list[Difference], what: str, safe: str) -> None:
    first = found[0]
    more = f", and so are {len(found) - 1} other parts of the state" if len(found) > 1 else ""
    raise RunError(
        f"After step {step} {first.name} on {name_devices(first.wrong)} is {what}{more}: a bit "
        f"flipped in memory or in arithmetic; {safe}. Start again without that machine."
    )
