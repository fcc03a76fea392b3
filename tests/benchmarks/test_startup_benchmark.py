"""The benchmark of start-up works for few processes; its figures are for `launch/bench.py`."""

import pytest

from fugaku_jax.benchmarks.startup import run
from fugaku_jax.errors import InputError


@pytest.mark.slow
def test_every_start_is_timed_and_the_sockets_of_small_groups_are_no_more():
    told: list[str] = []
    rows = run((4,), say=told.append)
    assert [row["contender"] for row in rows] == ["4, flat", "4, torus"]
    assert len(told) == 2
    for row in rows:
        times = [row[f"{name}_seconds"] for name in ("joined", "compiled", "first_step")]
        assert 0 < times[0] < times[1] < times[2]
        assert min(row[f"{name}_ms"] for name in ("barrier", "vote", "decision", "stop")) > 0
    # Of four in a group each has three neighbours, of two by two each has two.
    flat, torus = (row["sockets_of_others"] for row in rows)
    assert torus < flat


def test_a_number_of_processes_without_a_torus_is_refused():
    with pytest.raises(InputError, match="--processes is 5, but it must be of 2, 4, 8"):
        run((5,))
