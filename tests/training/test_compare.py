"""Processes that each time themselves alone are compared, and the slow one is named."""

import jax.numpy as jnp
import pytest

from fugaku_jax.cluster.rank_names import RankNames
from fugaku_jax.data.batch import Batch
from fugaku_jax.run.stragglers import STRAGGLERS_FILE, record_stragglers, slow_processes
from fugaku_jax.training.adamw import Moments
from fugaku_jax.training.hooks import compare
from fugaku_jax.training.hooks.compare import Compare
from fugaku_jax.training.hooks.hook import CompletedStep
from fugaku_jax.training.state import TrainState


def completed(number):
    """A step whose state a hook is given."""
    return CompletedStep(number, Batch(jnp.zeros(1)), {}, {}, 1.0, False, None)


@pytest.fixture
def others(monkeypatch):
    """Five processes in all, of which this is rank 0; what each gathers is set by rank."""
    figures = {}

    def decided(name, mine, decide):
        """Of probe, share of waiting, cost and seconds a step, this process measures its own."""
        assert (name, len(mine)) == ("paces", 4)
        return decide([figures.get(rank, [0.01, 0.0, 0.049, 2.0]) for rank in range(5)])

    monkeypatch.setattr(compare, "decided", decided)
    return figures


def compared(steps):
    """Take steps, of which the hook asks for states; return those, and what it tells at the end."""
    told, asked = [], []
    names = RankNames({3: "node003"})
    hook = Compare(lambda: 0.0, names, told.append)
    moments = Moments({"w": jnp.zeros(())}, {"w": jnp.zeros(())}, jnp.int32(0))
    hook.start(100, TrainState({"w": jnp.float32(1)}, moments, jnp.int32(100), None))
    for step in range(101, 101 + steps):
        if hook.needs_state(step):
            asked.append(step)
        hook.after_step(completed(step))
    hook.stop()
    return asked, told


def test_comparisons_take_their_share_of_the_steps_time_by_figures_that_all_have(others):
    # 0.049 s each, of steps of 2 s: every tenth step; then one process takes 0.199 s for one.
    assert compared(30)[0] == [110, 120, 130]
    others[2] = (0.01, 0.0, 0.199, 2.0)
    assert compared(100)[0] == [110, 150, 190]


def test_a_process_that_computes_slowly_or_waits_for_data_is_named_and_written_down(
    others, tmp_path
):
    others[3] = (0.03, 0.0, 0.049, 2.0)
    others[1] = (0.01, 0.3, 0.049, 2.0)
    _, (found,) = compared(30)
    assert [(each.rank, each.is_slow) for each in found.slowest[:3]] == [
        ("rank 3 (node003)", True),
        ("rank 1", True),
        ("rank 0", False),
    ]
    warnings = list(found.warnings())
    assert len(warnings) == 2
    assert "rank 3 (node003) was slow: in 3 comparisons a product" in warnings[0]
    assert "took 3.00 times what the median process needed" in warnings[0]
    assert "waited for data 30% of the time (0%)" in warnings[1]
    assert slow_processes(tmp_path) == []
    record_stragglers(tmp_path, found)
    assert (tmp_path / STRAGGLERS_FILE).exists()
    assert slow_processes(tmp_path) == ["rank 3 (node003)", "rank 1"]


@pytest.mark.usefixtures("others")
def test_without_a_slow_process_nothing_is_said_and_without_a_comparison_nothing_is_told():
    assert list(compared(30)[1][0].warnings()) == []
    assert compared(5)[1] == []
