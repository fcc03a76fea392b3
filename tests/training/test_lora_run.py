"""A run of LoRA: it goes on exactly, is read as a whole model, and needs one to begin with."""

import shutil
from dataclasses import replace

import jax
import numpy as np
import pytest
from flax import nnx

from fugaku_jax.config import TuningConfig
from fugaku_jax.errors import InputError, RunError
from fugaku_jax.models.layout import make_layout
from fugaku_jax.run.checkpoint_folder import checkpoint_folder, saved_steps
from fugaku_jax.run.identity import Start
from fugaku_jax.run.metrics import read_metrics
from fugaku_jax.training.checkpoint import RunCheckpoints, load_model
from fugaku_jax.training.loop import DONE, STOPPED, train
from fugaku_jax.training.state import init_state
from fugaku_jax.training.whole_model import whole_model

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def lora(config):
    """Eight steps with dropout, of which a save keeps only the last."""
    return replace(
        config,
        training=replace(config.training, sample_tokens=0),
        checkpoint=replace(config.checkpoint, keep=1),
        tuning=TuningConfig("lora", rank=2, alpha=8.0),
    )


@pytest.fixture(scope="module")
def start():
    """Weights of another project's, so to say."""

    def parameters(layout):
        full = make_layout(replace(layout.config, tuning=TuningConfig()))
        return init_state(full).parameters

    return Start(parameters, {"format": "drawn", "path": "nowhere", "sha256": "0" * 64}, None)


@pytest.fixture(scope="module")
def trained(lora, start, tmp_path_factory):
    run = tmp_path_factory.mktemp("lora") / "run"
    assert train(lora, run, start) == DONE
    return run


def losses(run):
    return [line["loss"] for line in read_metrics(run)]


def state_of(run, config):
    with RunCheckpoints(run) as checkpoints:
        return checkpoints.restore(make_layout(config))


def test_a_run_that_was_stopped_goes_on_bit_for_bit_without_what_it_began_with(
    trained, lora, start, tmp_path
):
    run = tmp_path / "run"
    parts = replace(lora, training=replace(lora.training, stop_after=3))
    assert train(parts, run, start) == STOPPED
    assert train(lora, run) == DONE
    assert losses(run) == losses(trained)
    assert saved_steps(run) == saved_steps(trained) == [0, 8]
    jax.tree.map(np.testing.assert_array_equal, state_of(run, lora), state_of(trained, lora))
    # What is saved on the way holds no weights: it is a small part of step 0, which has them all.
    sizes = {
        step: sum(x.stat().st_size for x in checkpoint_folder(run, step).rglob("d/*"))
        for step in (0, 8)
    }
    assert sizes[8] < 0.5 * sizes[0]


def test_it_is_read_as_a_whole_model_also_to_begin_another_run_with(trained, lora, config):
    state = state_of(trained, lora)
    layout = make_layout(lora)
    with layout.active():
        right = whole_model(layout, state.parameters, state.frozen)
    _, loaded = load_model(trained)
    full = make_layout(config)
    with RunCheckpoints(trained) as checkpoints:
        begun = whole_model(full, checkpoints.restore_parameters(full))
    trees = [nnx.to_pure_dict(nnx.state(each)) for each in (right, loaded, begun)]
    jax.tree.map(np.testing.assert_array_equal, trees[0], trees[1])
    jax.tree.map(np.testing.assert_array_equal, trees[0], trees[2])
    same = jax.tree.map(np.array_equal, trees[0], state.frozen)
    changed = {path[1].key for path, equal in jax.tree.leaves_with_path(same) if not equal}
    assert changed == {"qkv", "attention_output", "up", "down"}


def test_without_a_model_or_with_half_of_one_it_is_said(trained, lora, start, tmp_path):
    with pytest.raises(InputError, match=r"tuning\.method is lora, which needs a trained model"):
        train(lora, tmp_path / "none")
    wider = replace(lora, tuning=TuningConfig("lora", rank=4, alpha=8.0))
    with pytest.raises(InputError, match=r"tuning\.rank is 2 there and 4 here"):
        train(wider, trained, start)
    run = shutil.copytree(trained, tmp_path / "run")
    shutil.rmtree(checkpoint_folder(run, 0))
    with pytest.raises(RunError, match=r"checkpoints/0 is damaged"):
        train(lora, run)
