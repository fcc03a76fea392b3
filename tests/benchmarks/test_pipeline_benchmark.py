"""The benchmark of pipelines works at toy size; its figures are for `launch/bench.py`."""

import pytest

from fugaku_jax.benchmarks.pipeline import run
from fugaku_jax.pipeline.schedule import KINDS

pytestmark = pytest.mark.slow


def test_every_schedule_is_measured_beside_its_table_and_idles_at_least_as_long():
    told: list[str] = []
    rows = run(processes=(2,), micro_batches=(2,), forward_seconds=0.02, passes=1, say=told.append)
    assert [row["kind"] for row in rows] == list(KINDS)
    assert len(told) == len(rows)
    for row in rows:
        assert (row["stages"], row["micro_batches"]) == (2, 2)
        assert row["idle_modelled"] == pytest.approx(row["idle_formula"])
        # All that is added to the modelled time is waiting. Work may oversleep, more on one stage
        # than on the other, which makes others idle too; so the bound is nearly exact.
        assert row["idle_modelled"] - 0.02 <= row["idle_measured"] < 1
        assert row["idle_measured_min"] <= row["idle_measured"] <= row["idle_measured_max"]
        assert row["ratio"] == row["idle_measured"] / row["idle_modelled"]
        assert row["pass_seconds"] > 0.02 * 3 * 2


def test_a_pipeline_that_cannot_be_says_why():
    with pytest.raises(RuntimeError, match="micro_batches is 0"):
        run(processes=(1,), micro_batches=(0,))
