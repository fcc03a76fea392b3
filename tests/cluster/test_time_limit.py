"""A job's end is read where the scheduler says it, and no clock that is set moves it."""

import datetime

import pytest

from fugaku_jax.cluster import time_limit
from fugaku_jax.errors import InputError

END = 2_000_000_000


class Clocks:
    """Both clocks, an hour before the end."""

    def __init__(self):
        self.now, self.ticks = END - 3600.0, 50.0

    def time(self):
        return self.now

    def monotonic(self):
        return self.ticks


@pytest.fixture
def clocks(monkeypatch):
    clocks = Clocks()
    monkeypatch.setattr(time_limit, "time", clocks)
    return clocks


LOCAL = datetime.datetime.fromtimestamp(END)
TOKYO = datetime.datetime.fromtimestamp(END, datetime.timezone(datetime.timedelta(hours=9)))


@pytest.mark.parametrize(
    "environ",
    [
        {"SLURM_JOB_END_TIME": str(END)},
        {"FUGAKU_JAX_JOB_END": str(END), "SLURM_JOB_END_TIME": "1"},
        {"FUGAKU_JAX_JOB_END": LOCAL.isoformat()},
        {"FUGAKU_JAX_JOB_END": TOKYO.isoformat(), "SLURM_JOB_END_TIME": ""},
    ],
)
def test_the_end_is_near_so_many_seconds_before_it_whatever_happens_to_the_clock(clocks, environ):
    is_near = time_limit.is_near(300.0, environ)
    clocks.now += 1e6  # somebody sets the clock
    assert not is_near()
    clocks.ticks += 3299.0
    assert not is_near()
    clocks.ticks += 1.0
    assert is_near()


def test_nobody_stops_who_was_not_asked_to():
    assert not time_limit.is_near(None, {})()


@pytest.mark.parametrize(
    ("environ", "sentence"),
    [
        ({}, r"stop_before_limit is 300, but nothing says when .* FUGAKU_JAX_JOB_END"),
        ({"FUGAKU_JAX_JOB_END": "24:00:00"}, r"FUGAKU_JAX_JOB_END is '24:00:00', but it must be"),
        ({"FUGAKU_JAX_JOB_END": "9" * 400}, r"must be a time"),
        ({"SLURM_JOB_END_TIME": "1700000000"}, r"SLURM_JOB_END_TIME is 1700000000, .* the past"),
    ],
)
@pytest.mark.usefixtures("clocks")
def test_an_end_that_is_not_told_or_cannot_be_is_refused(environ, sentence):
    with pytest.raises(InputError, match=sentence):
        time_limit.is_near(300.0, environ)
