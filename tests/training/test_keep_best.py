"""A run that gets no better ends at its best step."""

import shutil
from dataclasses import replace

import pytest

from fugaku_jax.run.best import ENDED_FILE, Best, best_until, ended_at
from fugaku_jax.run.checkpoint_folder import saved_steps
from fugaku_jax.run.metrics import read_metrics
from fugaku_jax.training.loop import DONE, STOPPED, train

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def overfitting(config):
    """A run that is validated after every step and soon predicts held-out text worse."""
    return replace(
        config,
        optimizer=replace(config.optimizer, learning_rate=0.1, warmup_tokens=0, schedule="wsd"),
        training=replace(config.training, steps=40, validate_every=1, patience=3),
        checkpoint=replace(config.checkpoint, every=1000, keep=1),
    )


@pytest.fixture(scope="module")
def ended(overfitting, tmp_path_factory):
    run = tmp_path_factory.mktemp("ended") / "run"
    assert train(overfitting, run) == DONE
    return run


def _losses(run):
    return {int(line["step"]): line["validation_loss"] for line in read_metrics(run)}


def test_the_best_step_is_the_newest_checkpoint(ended):
    losses = _losses(ended)
    best = min(losses, key=losses.__getitem__)
    assert 1 < max(losses) < 40
    assert best_until(ended, 40).step == best
    assert saved_steps(ended) == [best]
    assert all(losses[step] > losses[best] for step in range(best + 1, best + 4))
    assert ended_at(ended, 3) == best


def test_the_same_command_says_that_it_has_ended(ended, overfitting, capsys):
    before = _losses(ended)
    assert train(overfitting, ended) == DONE
    assert "has ended early" in capsys.readouterr().out
    assert _losses(ended) == before


def test_a_run_in_sessions_ends_where_one_in_a_single_session_does(overfitting, ended, tmp_path):
    parts = replace(overfitting, training=replace(overfitting.training, stop_after=2))
    codes = []
    while not codes or codes[-1] == STOPPED:
        codes.append(train(parts, tmp_path / "run"))
    assert codes[-1] == DONE
    assert len(codes) > 1
    assert saved_steps(tmp_path / "run") == saved_steps(ended)


def test_with_more_patience_it_goes_on(ended, overfitting, tmp_path):
    run = shutil.copytree(ended, tmp_path / "run")
    longer = replace(overfitting.training, patience=50, stop_after=1)
    assert train(replace(overfitting, training=longer), run) == STOPPED
    assert (run / ENDED_FILE).exists()


def test_a_nan_is_no_better_than_anything():
    best = Best().after(1, float("nan"))
    assert (best.step, best.worse) == (0, 1)
    best = best.after(2, 3.0).after(3, float("nan")).after(4, 3.0)
    assert (best.step, best.worse) == (2, 2)
    assert best.after(5, 2.9) == Best(5, 2.9)
