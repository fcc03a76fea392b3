"""Signals that ask a run to save and stop, and those that do not."""

import os
import signal

import pytest

from fugaku_jax.training.stop_signals import stop_signals

ALL = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@pytest.fixture(autouse=True)
def deaf():
    """Let a signal that nobody takes be counted rather than kill the tests."""
    came = []
    before = {number: signal.signal(number, lambda n, _: came.append(n)) for number in ALL}
    yield came
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", ALL)
def test_the_first_signal_asks_and_only_a_hang_up_does_not_kill_when_it_comes_twice(number, deaf):
    with stop_signals() as asked:
        assert not asked()
        os.kill(os.getpid(), number)
        assert asked()
        assert not deaf
        os.kill(os.getpid(), number)
        assert deaf == ([] if number == signal.SIGHUP else [number])
    os.kill(os.getpid(), number)
    assert deaf[-1] == number


def test_a_hang_up_that_is_ignored_stays_so():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as `nohup` starts a program
    with stop_signals() as asked:
        os.kill(os.getpid(), signal.SIGHUP)
        assert not asked()
