"""The trainer calls hooks in order and with what they were promised, two steps being in flight."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fugaku_jax.data.batch import Batch
from fugaku_jax.run.metrics import MetricsWriter, read_metrics
from fugaku_jax.run.sessions import record_session
from fugaku_jax.training import trainer
from fugaku_jax.training.adamw import Moments
from fugaku_jax.training.hooks.hook import Hook
from fugaku_jax.training.hooks.record import Record
from fugaku_jax.training.state import TrainState
from fugaku_jax.training.time_spent import TimeSpent
from fugaku_jax.training.trainer import Trainer


def state_after(steps: int) -> TrainState:
    """A state whose only weight is its step; each array is its own, to be given away."""
    moments = Moments({"w": jnp.zeros(())}, {"w": jnp.zeros(())}, jnp.int32(0))
    return TrainState({"w": jnp.float32(steps)}, moments, jnp.int32(steps), None)


@functools.partial(jax.jit, donate_argnums=0)
def count(state, batch):
    """A step whose loss is the sum of its tokens."""
    after = TrainState({"w": state.parameters["w"] + 1}, state.moments, state.step + 1, None)
    return after, {"loss": jnp.sum(batch.tokens) * 1.0, "rows": batch.tokens + 1}


def batches(first: int, last: int):
    """The tokens of step n are the number n."""
    return ((index, Batch(jnp.full(2, index + 1))) for index in range(first, last))


class Witness(Hook):
    """Writes down what happens to it; needs the state of some steps, and may ask to stop."""

    def __init__(self, name="", events=None, needs=(), stops_at=None):
        self.name, self.needs, self.stops_at = name, needs, stops_at
        self.events = [] if events is None else events

    def start(self, step, state):
        self.events.append((self.name, "start", step, int(state.step)))

    def needs_state(self, step):
        return step in self.needs

    def after_step(self, done):
        state = done.state and float(done.state.parameters["w"])
        self.events.append((self.name, done.number, state, done.is_last))
        done.stop_asked |= done.number == self.stops_at

    def stop(self):
        self.events.append((self.name, "stop"))


def test_hooks_are_called_in_their_order_behind_the_next_step_or_with_the_state_of_their_own():
    events = []

    def take(state, batch):
        events.append(("take", int(batch.tokens[0])))
        return count(state, batch)

    hooks = [Witness("a", events, needs=(5,)), Witness("b", events)]
    assert Trainer(take, state_after(3), hooks).run(batches(3, 7), 3, 7) == 7
    assert events == [
        *(("a", "start", 3, 3), ("b", "start", 3, 3)),
        *(("take", 4), ("take", 5)),
        *(("a", 4, None, False), ("b", 4, None, False)),
        *(("a", 5, 5.0, False), ("b", 5, 5.0, False)),
        *(("take", 6), ("take", 7)),
        *(("a", 6, None, False), ("b", 6, None, False)),
        *(("a", 7, 7.0, True), ("b", 7, 7.0, True)),
        *(("b", "stop"), ("a", "stop")),
    ]


def test_a_hook_gets_the_batch_and_the_outputs_of_its_step_and_sees_what_those_before_it_found():
    class Find(Hook):
        def after_step(self, done):
            assert set(done.figures) == {"loss"}
            done.figures["found"] = done.figures["loss"] + 1
            done.samples.append(("prompt", f"text {done.number}"))
            done.why_unsound = "It is a test"

    seen = []

    class See(Hook):
        def after_step(self, done):
            np.testing.assert_array_equal(done.batch.tokens, [done.number] * 2)
            np.testing.assert_array_equal(done.outputs["rows"], [done.number + 1] * 2)
            assert done.why_unsound == "It is a test"
            seen.append((done.figures, done.samples))

    Trainer(count, state_after(0), [Find(), See()]).run(batches(0, 3), 0, 3)
    assert seen == [
        ({"loss": 2.0 * n, "found": 2.0 * n + 1}, [("prompt", f"text {n}")]) for n in (1, 2, 3)
    ]


@pytest.mark.parametrize(("asked_at", "needs", "end"), [(2, (), 3), (2, (2,), 3), (6, (), 6)])
def test_a_hook_that_asks_to_stop_ends_the_session_after_the_next_step(asked_at, needs, end):
    hooks = [Witness("a", needs=needs, stops_at=asked_at), Witness("b")]
    assert Trainer(count, state_after(0), hooks).run(batches(0, 6), 0, 6) == end
    for hook in hooks:
        assert [event[1] for event in hook.events] == ["start", *range(1, end + 1), "stop"]
        assert hook.events[-2] == (hook.name, end, float(end), True)


def test_an_error_of_a_hook_ends_all_that_were_started_and_leaves_the_step_in_flight_unseen():
    class Fail(Hook):
        def after_step(self, done):
            if done.number == 2:
                raise RuntimeError("no step")

    class FailAtOnce(Hook):
        def start(self, *_):
            raise RuntimeError("no start")

        def stop(self):
            raise AssertionError("it was never started")

    for hook, said, seen in ((Fail(), "no step", [1, 2]), (FailAtOnce(), "no start", [])):
        first = Witness()
        with pytest.raises(RuntimeError, match=said):
            Trainer(count, state_after(0), [first, hook]).run(batches(0, 6), 0, 6)
        assert [event[1] for event in first.events] == ["start", *seen, "stop"]


def test_the_figures_of_each_step_are_written_once_and_in_order_though_the_run_was_stopped(
    tmp_path,
):
    step, ends = 0, []
    while step < 9:
        with MetricsWriter(tmp_path, resume_step=step) as metrics:
            record_session(tmp_path, step, processes=1, devices=1)
            spent = TimeSpent()
            hooks = [Record(tmp_path, metrics, spent), Witness(stops_at=step + 3)]
            step = Trainer(count, state_after(step), hooks).run(batches(step, 9), step, 9)
        ends.append(step)
    assert ends == [4, 8, 9]
    assert read_metrics(tmp_path) == [{"step": n, "loss": 2.0 * n} for n in range(1, 10)]


class Clock:
    """A clock that only moves when it is told to."""

    now = 100.0

    def perf_counter(self):
        return self.now


class Later(jax.Array):
    """A figure that a device has computed once a clock shows a time, and a host can wait for."""

    ndim, dtype = 0, np.dtype(np.float64)

    def __init__(self, clock, time):
        self.clock, self.time = clock, time

    def copy_to_host_async(self):
        """Nothing has to be moved."""

    def is_ready(self):
        return self.clock.now >= self.time

    def __array__(self, *_, **__):
        self.clock.now = max(self.clock.now, self.time)
        return np.array(1.0)


@pytest.mark.parametrize(
    ("waits", "expected"),
    [(False, [2.0] * 6), (True, [2.0, 2.5, 2.5, 2.0, 2.5, 2.5])],  # the host's work is not hidden
)
def test_a_step_takes_from_completion_to_completion_without_what_hooks_do_with_the_state(
    monkeypatch, waits, expected
):
    clock = Clock()
    monkeypatch.setattr(trainer, "time", clock)
    free, seconds = 0.0, []

    def take(state, _):
        nonlocal free
        free = max(free, clock.now) + 2.0  # when the device has done this step too
        if waits:  # as a device does that computes while it is called
            clock.now = free
        return state, {"loss": Later(clock, free)}

    class Work(Hook):
        def needs_state(self, step):
            return step == 3

        def after_step(self, done):
            seconds.append(done.seconds)
            clock.now += 10.0 if done.state else 0.5

    Trainer(take, state_after(0), [Work()]).run(batches(0, 6), 0, 6)
    assert seconds == expected


def test_the_time_of_a_session_is_told_apart_and_nothing_is_counted_twice(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("time.perf_counter", lambda: clock.now)

    class Saves(Hook):
        time_is_for = "save"

        def needs_state(self, step):
            return step == 2

        def after_step(self, done):
            clock.now += 5.0 if done.state is not None else 0.0

    def take(state, batch):
        clock.now += 2.0
        return count(state, batch)

    def slow(batches):
        for batch in batches:
            clock.now += 3.0 if batch[0] == 0 else 0.0
            yield batch

    spent = TimeSpent(before=7.0)
    Trainer(take, state_after(0), [Saves()], spent).run(slow(batches(0, 4)), 0, 4)
    clock.now += 1.0
    seconds = spent.seconds()
    # The hook saves after step 2 and after the last, and waits for data before the first.
    assert (seconds.start, seconds.data, seconds.save, seconds.other) == (7.0, 3.0, 10.0, 1.0)
    assert (seconds.steps, seconds.total) == (8.0, 7.0 + 3.0 + 8.0 + 10.0 + 1.0)
