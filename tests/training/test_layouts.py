"""Two layouts in one process, and nothing that either leaves behind."""

import dataclasses
import json
from pathlib import Path

import jax
import pytest

from fugaku_jax.errors import InputError
from fugaku_jax.layout.layout import Layout
from fugaku_jax.models.layout import layout_for_use, make_layout, whole
from fugaku_jax.training.optimizer import make_optimizer
from fugaku_jax.training.state import abstract_state
from fugaku_jax.training.storage_order import saved_types

PROGRAM = Path(__file__).with_name("two_layouts.py")


@pytest.fixture(scope="module")
def train(tmp_path_factory, run_emulated):
    """Return what the program finds, on four emulated devices."""
    folder = tmp_path_factory.mktemp("layouts")

    def run(how):
        run_emulated(PROGRAM, 4, folder / how, how)
        return json.loads((folder / how).read_text())

    return run


@pytest.fixture(scope="module")
def alone(train):
    """What each layout finds in a process of its own."""
    return train("replicas") | train("stages")


@pytest.mark.slow
@pytest.mark.parametrize("how", ["alternately", "threads"])
def test_two_layouts_in_one_process_compute_what_each_does_in_one_of_its_own(how, train, alone):
    assert train(how) == alone


def test_equal_runs_on_equal_meshes_have_one_layout_and_that_of_use_is_another(change):
    config = change(mesh={"pipeline": 2})
    layout = make_layout(config, 2)
    assert layout == make_layout(dataclasses.replace(config), 2)
    assert layout != whole(layout)
    assert whole(layout).rules.parts("stage") == 1


def test_only_stages_get_a_schedule_and_it_is_checked_when_they_are_laid_out(change):
    training = {"micro_batches": 4}
    assert "pipeline" not in vars(make_layout(change(training=training), 1))
    staged = make_layout(change(training=training, mesh={"pipeline": 2}), 2)
    schedule, _ = vars(staged)["pipeline"]
    assert (schedule.stages, schedule.micro_batches) == (2, 4)


def test_a_layout_is_frozen(config):
    with pytest.raises(dataclasses.FrozenInstanceError):
        make_layout(config).rules = None


def test_a_layout_of_devices_that_do_not_exist_tells_where_everything_would_lie(change):
    layout = make_layout(change(mesh={"data": 2, "tensor": 2}), 4)
    kernel = abstract_state(layout).parameters["blocks"]["up"]["kernel"]
    assert kernel.sharding.shard_shape(kernel.shape) == (2, 16, 32)
    assert layout.placements["blocks"]["up"]["kernel"].summed == layout.rules.data


def test_a_checkpoint_of_a_pipeline_has_layers_with_their_stages_and_all_else_once(change):
    mesh = {"data": 2, "pipeline": 2, "weights": "zero1"}
    layout = make_layout(change(mesh=mesh, training={"micro_batches": 2}), 4)
    state = abstract_state(layout)
    saved = saved_types(layout, make_optimizer(layout))
    for held, kept in ((state.parameters, saved.parameters), (state.moments, saved.moments)):
        pairs = zip(jax.tree.leaves_with_path(held), jax.tree.leaves(kept), strict=True)
        for path, (x, y) in ((path, (x, y)) for (path, x), y in pairs):
            name = jax.tree_util.keystr(path)
            if "blocks" in name:
                assert (x.shape, x.sharding.spec) == (y.shape, y.sharding.spec), name
            elif x.shape:
                # A place for each of two stages; a device holds one, as of a copy on all.
                assert x.shape == (2 * y.shape[0], *y.shape[1:]), name
                assert x.sharding.shard_shape(x.shape) == y.sharding.shard_shape(y.shape), name


def test_a_layout_leaves_the_mesh_that_was_active(config):
    before = jax.sharding.get_abstract_mesh()
    layout = make_layout(config, 1)
    with layout.active():
        assert jax.sharding.get_abstract_mesh() == layout.mesh
    assert jax.sharding.get_abstract_mesh() == before


def test_use_asks_for_no_rows_but_for_heads_that_tensor_devices_can_share(change):
    odd: Layout = layout_for_use(change(training={"batch_size": 3, "micro_batches": 1}), 2)
    assert odd.rules.parts("batch") == 2
    with pytest.raises(InputError, match=r"batch_size / .* is 3, .* multiple of the 2 mesh.data"):
        make_layout(odd.config, 2)
    with pytest.raises(InputError, match=r"model.n_heads is 2, .* multiple of the 4 mesh.tensor"):
        layout_for_use(change(mesh={"tensor": 4}), 4)
