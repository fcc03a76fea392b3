"""Steps one after another, with hooks around them; two steps are in flight at a time.

While step n runs on the devices, the host reads the figures of step n-1, calls the hooks with them
and has step n+1 wait behind it, so that the devices never wait for the host. Only where a hook
needs the state after step n, or n is the last, does step n+1 wait until the hooks are done with n.
"""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass

import jax
from jaxtyping import Array

from fugaku_jax.data.batch import Batch
from fugaku_jax.training.hooks.hook import CompletedStep, Hook
from fugaku_jax.training.state import TrainState
from fugaku_jax.training.step import Step
from fugaku_jax.training.time_spent import TimeSpent


class Trainer:
    """Takes steps, and calls hooks around them.

    Args:
        take_step: gives the next state and the step's outputs; consumes (donates) the state, and
            returns before the devices are done.
        state: what to start from; it is given away.
        hooks: called in their order.
        spent: is told where the time goes.
    """

    def __init__(
        self,
        take_step: Step,
        state: TrainState,
        hooks: Sequence[Hook],
        spent: TimeSpent | None = None,
    ) -> None:
        self._take_step, self._state, self._hooks = take_step, state, hooks
        self._spent = spent or TimeSpent()
        self._last = 0
        self._ahead: _InFlight | None = None
        self._completed = 0.0  # when the newest completed step was

    def run(self, batches: Iterable[tuple[int, Batch]], first: int, last: int) -> int:
        """Take the steps of these batches, and return the last one taken.

        Args:
            batches: number of the step before, and the batch of a step, in order.
            first: steps taken before.
            last: the step after which to end, unless a hook asks to stop sooner.
        """
        self._last, self._ahead = last, None
        step = first
        with ExitStack() as started:
            for hook in self._hooks:
                hook.start(first, self._state)
                started.callback(hook.stop)
            for index, batch in self._timed(batches):
                step, before = index + 1, self._ahead
                self._ahead = self._begin(step, batch, before)
                if before:
                    self._finish(before, None)
                if step == self._last or any(hook.needs_state(step) for hook in self._hooks):
                    self._finish(self._ahead, self._state)
                    self._ahead = None
                if step == self._last:
                    break
        return step

    def _timed(self, batches: Iterable[tuple[int, Batch]]) -> Iterator[tuple[int, Batch]]:
        """Yield batches, and note how long the devices have had none."""
        begun = time.perf_counter()
        for batch in batches:
            waited = time.perf_counter() - begun
            if self._ahead is None or self._ahead.is_completed():
                self._spent.add("data", waited)
            if self._ahead and self._ahead.is_completed():  # which its own time includes then
                self._spent.add("steps", -waited)
            yield batch
            begun = time.perf_counter()

    def _begin(self, step: int, batch: Batch, before: "_InFlight | None") -> "_InFlight":
        # Noted here, as devices that compute while they are called would hide when it was.
        if before and before.is_completed():
            self._note(before)
        begun = time.perf_counter()
        self._state, outputs = self._take_step(self._state, batch)
        return _InFlight(step, batch, outputs, begun)

    def _finish(self, step: "_InFlight", state: TrainState | None) -> None:
        """Wait for a step, and call the hooks with it."""
        scalars = {name: x for name, x in step.outputs.items() if x.ndim == 0}
        figures = {name: float(x) for name, x in jax.device_get(scalars).items()}
        self._note(step)
        done = CompletedStep(
            number=step.number,
            batch=step.batch,
            outputs=step.outputs,
            figures=figures,
            seconds=step.seconds,
            is_last=step.number == self._last,
            state=state,
        )
        self._spent.add("skipped" if figures.get("skipped") else "steps", step.seconds)
        for hook in self._hooks:
            with self._spent.on(hook.time_is_for) if state else nullcontext():
                hook.after_step(done)
        if done.stop_asked:
            self._last = min(self._last, step.number + 1)

    def _note(self, step: "_InFlight") -> None:
        """Note how long a step took that is completed by now, unless that is known."""
        if not step.seconds:
            now = time.perf_counter()
            step.seconds = now - max(self._completed, step.begun)
            self._completed = now


@dataclass
class _InFlight:
    """A step that the devices have been told to take."""

    number: int
    batch: Batch
    outputs: Mapping[str, Array]
    begun: float
    seconds: float = 0.0

    def is_completed(self) -> bool:
        return all(x.is_ready() for x in self.outputs.values())  # pyrefly: ignore[missing-attribute]
