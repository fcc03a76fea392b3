"""Steps that go wrong: what is left out, where the run goes back to, and what it then reads."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from fugaku_jax.data.order import SampleOrder
from fugaku_jax.data.passed_over import PassedOver
from fugaku_jax.errors import InputError, RunError
from fugaku_jax.run.data_order import open_run_order
from fugaku_jax.run.metrics import read_metrics
from fugaku_jax.training import loop
from fugaku_jax.training.hooks.hook import Hook
from fugaku_jax.training.spikes import LEAST, WINDOW, no_recent_steps


@pytest.mark.parametrize(
    "ranges", [[], [(0, 3)], [(5, 6)], [(2, 4), (4, 6), (9, 12)], [(1, 4)] * 2]
)
def test_steps_read_all_batches_but_those_passed_over_in_their_order(ranges):
    passed = PassedOver(range(*each) for each in ranges)
    left_out = {batch for each in ranges for batch in range(*each)}
    expected = [batch for batch in range(40) if batch not in left_out]
    assert [passed.batch(step) for step in range(len(expected))] == expected
    steps = {batch: step for step, batch in enumerate(expected)}
    assert [passed.step(batch) for batch in range(40)] == [steps.get(b) for b in range(40)]


def test_occurrences_are_of_steps_and_leave_out_what_was_passed_over():
    sizes = {"sequence_length": 7, "batch_size": 4, "seed": 3}
    passed = PassedOver([range(3, 5), range(11, 12)])
    order = SampleOrder([120, 80], [2, 1], **sizes, passed_over=passed)
    seen = [
        (step, row)
        for step in range(20)
        for row, (index, first) in enumerate(
            zip(*(column.tolist() for column in order.locate(step)[:2]), strict=True)
        )
        if index == 0 and first < 40 and first + 8 > 33
    ]
    assert [place[:2] for place in order.occurrences(0, 33, 40, steps=20)] == seen


@pytest.mark.slow
def test_a_spike_is_what_is_far_above_the_steps_that_were_taken():
    random = np.random.default_rng(0)
    recent, spikes = no_recent_steps(), []
    for step in range(3 * WINDOW):
        loss, norm = 3 + 0.05 * random.standard_normal(), 1 + 0.1 * random.standard_normal()
        loss += 2 * (step in (10, LEAST + 5, LEAST + 6, 300))
        norm += 3 * (step == 200)
        loss, norm = jnp.float32(loss), jnp.float32(norm)
        spike = recent.has_spike(loss, norm, 6.0)
        spikes += [step] if spike else []
        recent = recent.add(loss, norm, ~spike)
    assert spikes == [LEAST + 5, LEAST + 6, 200, 300]
    assert recent.count == 3 * WINDOW - len(spikes)


class Poison(Hook):
    """Says of the steps that read certain batches that they were skipped, as the step would."""

    def __init__(self, run_dir, batches):
        self._run_dir, self._batches = run_dir, batches

    def after_step(self, done):
        _, order, _ = open_run_order(self._run_dir)
        if order.passed_over.batch(done.number - 1) in self._batches:
            done.figures["skipped"] = 1.0


@pytest.fixture
def sick(change, tmp_path):
    """Train with poisoned batches; return the run directory, and what `train` does."""

    def run(batches, **sections):
        training = {"steps": 6, "most_skipped": 2, "validate_every": 0, "sample_tokens": 0}
        config = change(training=training, checkpoint={"every": 2}, **sections)
        return loop.train(config, tmp_path / "run", hooks=[Poison(tmp_path / "run", batches)])

    return tmp_path / "run", run


@pytest.mark.slow
def test_the_second_time_it_passes_over_all_since_the_checkpoint_and_then_gives_up(sick):
    run_dir, train = sick
    with pytest.raises(RunError, match=r"went back to that checkpoint 2 times"):
        train(set(range(3, 30)))
    passed = json.loads((run_dir / "ledger.json").read_text())["passed_over"]
    assert [(each["first_batch"], each["last_batch"]) for each in passed] == [(3, 4), (2, 6)]
    assert read_metrics(run_dir)[-1]["step"] >= 2


def test_a_ledger_that_passes_over_no_range_is_refused(config, tmp_path):
    fields = {"checkpoint": 2, "last_step": 4, "first_batch": 4, "last_batch": 3, "why": ""}
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    (tmp_path / "ledger.json").write_text(json.dumps({"passed_over": [fields]}))
    with pytest.raises(InputError, match="batches 4 to 3, which is no range"):
        loop.train(config, tmp_path)
