"""The benchmark of collectives works at toy size; its figures are for `launch/bench.py`."""

import pytest

from fugaku_jax.benchmarks.collectives import run

pytestmark = pytest.mark.slow


def test_each_axis_is_measured_alone_and_all_together():
    told: list[str] = []
    rows = run(shape=(2, 1, 3), local=2, megabytes=0.001, rounds=2, say=told.append)
    measured = {tuple(row["axes"]) for row in rows}
    assert measured == {("x",), ("z",), ("x", "z")}
    assert len(rows) == len(told) == 3 * len(measured)
    for row in rows:
        assert row["collective"] in ("all_reduce", "reduce_scatter", "all_gather")
        assert 0 < row["seconds_min"] <= row["seconds"] <= row["seconds_max"]
        assert 1000 <= row["bytes"] < 1050
        assert row["bytes_per_second"] == row["bytes"] / row["seconds"]


def test_a_mesh_that_cannot_be_is_named():
    with pytest.raises(RuntimeError, match="Collectives on emulated devices failed"):
        run(shape=(2, 0))
