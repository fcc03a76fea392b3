"""The benchmark of scaling works at toy size; its figures are for `launch/bench.py`."""

import dataclasses

import pytest

from fugaku_jax.benchmarks.scaling import (
    CONTENDERS,
    ScalingShape,
    _row,
    _run_processes,
    run_collectives,
)

pytestmark = pytest.mark.slow

TOY = ScalingShape(n_layers=1, d_model=32, n_heads=2, sequence_length=16, rows=2, vocab_size=256)


def test_two_processes_take_the_step_together():
    arguments = {"shape": dataclasses.asdict(TOY), "steps": 2}
    [times] = _run_processes("step", 2, arguments)
    assert len(times["seconds"]) == len(times["cpu"]) == 2
    assert min(times["seconds"] + times["cpu"]) > 0


def test_efficiency_is_the_speed_of_a_core_over_that_of_one_alone_in_the_same_round():
    alone = [{"seconds": [1.0, 2.0, 3.0], "cpu": [1.0] * 3}, {"seconds": [2.0], "cpu": [1.0]}]
    joined = [{"seconds": [4.0], "cpu": [1.0]}, {"seconds": [2.0, 2.5, 3.0], "cpu": [2.0] * 3}]
    measured = dict(zip(CONTENDERS, (alone, joined, joined), strict=True))
    one, two, _ = (_row(TOY, measured, contender) for contender in CONTENDERS)
    assert one["efficiency"] == one["efficiency_min"] == one["efficiency_max"] == 1
    assert two["efficiency"] == pytest.approx((2 / 4 + 2 / 2.5) / 2)
    assert (two["efficiency_min"], two["efficiency_max"]) == (2 / 4, 2 / 2.5)
    assert one["tokens_per_second_per_core"] == TOY.tokens / 2
    assert two["tokens_per_second_per_core_min"] == TOY.tokens / 4
    assert (two["step_seconds"], two["cpu_seconds"], two["timed_steps"]) == (2.75, 2.0, 4)


def test_collectives_are_measured_between_processes():
    rows = run_collectives(processes=(2,), megabytes=0.001, rounds=2)
    assert [row["collective"] for row in rows] == ["all_reduce", "reduce_scatter", "all_gather"]
    for row in rows:
        assert row["processes"] == 2
        assert row["axes"] == ["x"]
        assert 0 < row["seconds_min"] <= row["seconds"] <= row["seconds_max"]
