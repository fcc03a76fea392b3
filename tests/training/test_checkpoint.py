"""Checkpoints on disk: what becomes of damage, lost folders, full disks and weights gone bad."""

import dataclasses
import json
import random
import re
import resource
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from orbax.checkpoint._src.serialization import tensorstore_utils

from fugaku_jax.config import OptimizerConfig
from fugaku_jax.data.builtin import open_store
from fugaku_jax.errors import InputError, RunError
from fugaku_jax.interop.hf_weights import tensors
from fugaku_jax.interop.saved_weights import SavedWeights
from fugaku_jax.models.layout import make_layout
from fugaku_jax.run.checkpoint_folder import check_history
from fugaku_jax.run.identity import claim_run_dir
from fugaku_jax.run.metrics import MetricsWriter
from fugaku_jax.training import loop, saving_options
from fugaku_jax.training.checkpoint import RunCheckpoints, load_model
from fugaku_jax.training.checkpoint_reading import FORMAT, DamagedCheckpoint
from fugaku_jax.training.checksums import has_checksums
from fugaku_jax.training.state import init_state
from fugaku_jax.training.storage_order import in_layer_order

PAGE = Path(__file__).parents[2] / "docs" / "checkpoints.md"


@pytest.fixture(scope="module")
def layout(config):
    """Where the run lies."""
    return make_layout(config)


@pytest.fixture(scope="module")
def state_of(layout):
    """Return the state of a step."""
    state = init_state(layout)
    return lambda step: dataclasses.replace(state, step=jnp.int32(step))


@pytest.fixture(scope="module")
def undamaged(layout, state_of, tmp_path_factory):
    """A run with checkpoints of steps 3 and 6."""
    return saved(tmp_path_factory.mktemp("undamaged") / "run", layout, state_of)


@pytest.fixture
def run(undamaged, tmp_path):
    """A copy of it, to be damaged."""
    return shutil.copytree(undamaged, tmp_path / "run")


def saved(run_dir, layout, state_of):
    config, identity = layout.config, {"config": layout.config.to_dict()}
    claim_run_dir(run_dir, config, open_store(config.data.store), {})
    with RunCheckpoints(run_dir, config.checkpoint) as checkpoints:
        for step in (3, 6):
            checkpoints.save(step, layout, state_of(step), identity)
    return run_dir


def save(run_dir, layout, state):
    with RunCheckpoints(run_dir, layout.config.checkpoint) as checkpoints:
        checkpoints.save(9, layout, state, {})


def files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def largest(folder):
    return max(files(folder), key=lambda path: path.stat().st_size)


def flip(path, bit):
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def truncate(folder):
    path = largest(folder)
    path.write_bytes(path.read_bytes()[:1000])


def empty(folder):
    shutil.rmtree(folder)
    folder.mkdir()


def same(one, other):
    return jax.tree.structure(one) == jax.tree.structure(other) and all(
        np.array_equal(x, y)
        for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    )


def test_a_save_is_written_from_a_copy_in_the_memory_of_the_last_one(layout, state_of):
    first, second = state_of(3), jax.tree.map(lambda x: x + 1, state_of(3))
    copy = in_layer_order(layout, first)
    places = [x.unsafe_buffer_pointer() for x in jax.tree.leaves(copy)]
    again = in_layer_order(layout, second, copy)
    assert [x.unsafe_buffer_pointer() for x in jax.tree.leaves(again)] == places
    assert same(again, second)
    assert same(first, state_of(3))


@pytest.mark.slow
def test_a_flipped_bit_in_any_file_changes_nothing_or_is_an_error_that_names_the_checkpoint(
    layout, state_of, run
):
    assert has_checksums(run / "checkpoints" / "6" / "state")
    folder, draw = run / "checkpoints" / "6", random.Random(0)
    data, errors = largest(folder), []
    for path in [*files(folder), *[data] * 20]:
        whole = path.read_bytes()
        flip(path, draw.randrange(8 * len(whole)))
        try:
            assert same(RunCheckpoints(run).restore_step(6, layout), state_of(6)), path
        except DamagedCheckpoint as error:
            errors.append(str(error))
        path.write_bytes(whole)
    assert len(errors) >= 15
    assert all(f"{folder} is damaged" in error for error in errors)


def test_damaged_weights_are_neither_used_nor_exported(config, state_of, run):
    table, path = state_of(6).parameters["tokens"]["table"], largest(run / "checkpoints" / "6")
    flip(path, 8 * path.read_bytes().index(np.asarray(table).tobytes()[:64]))
    sentence = "6 is damaged: .*; rename it to use that of step 3"
    with pytest.raises(RunError, match=sentence):
        load_model(run)
    weights = SavedWeights(run)
    with pytest.raises(RunError, match=sentence):
        [weights.read(tensor) for tensor in tensors(config.model)]


@pytest.mark.slow
def test_a_checkpoint_without_checksums_is_read_and_said_to_have_none(
    layout, state_of, tmp_path, monkeypatch, capsys
):
    build = tensorstore_utils._build_zarr3_metadata
    plain = getattr(build, "__wrapped__", build)
    monkeypatch.setattr(saving_options, "check_chunks", lambda: None)
    monkeypatch.setattr(tensorstore_utils, "_build_zarr3_metadata", plain)
    run = saved(tmp_path / "run", layout, state_of)
    assert same(RunCheckpoints(run).restore(layout), state_of(6))
    assert "6 is from a version that wrote no checksums" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    "damage",
    [
        truncate,
        empty,
        lambda folder: largest(folder).unlink(),
        lambda folder: (folder / "state" / "_METADATA").unlink(),
        lambda folder: flip(largest(folder), 300_000),
        lambda folder: (folder.parent / "999").mkdir(),
        lambda folder: shutil.copytree(folder, folder.parent / "999"),
    ],
)
def test_what_is_no_good_checkpoint_is_set_aside_and_the_one_before_used(
    layout, state_of, run, capsys, damage
):
    damage(run / "checkpoints" / "6")
    good, bad = (6, 999) if (run / "checkpoints" / "999").exists() else (3, 6)
    before = len(files(run))
    with RunCheckpoints(run, layout.config.checkpoint) as checkpoints:
        assert same(checkpoints.restore(layout), state_of(good))
        assert len(files(run)) == before
        said = capsys.readouterr().err
        assert f"{bad} is damaged" in said
        assert f"it is now {bad}.damaged, and the run goes on from step {good}" in said
        checkpoints.save(good + 3, layout, state_of(good + 3), {})
    assert same(RunCheckpoints(run).restore(layout), state_of(good + 3))


@pytest.mark.slow
@pytest.mark.parametrize("number", [None, 99, "two"])
def test_a_format_is_read_if_it_is_known_and_a_later_one_is_no_damage(
    layout, config, state_of, run, number
):
    path = run / "checkpoints" / "6" / "identity" / "data.json"
    fields = json.loads(path.read_text())
    assert fields.pop("format") == FORMAT
    path.write_text(json.dumps(fields | ({} if number is None else {"format": number})))
    before = files(run)
    with RunCheckpoints(run, config.checkpoint) as checkpoints:
        if number is None:
            assert same(checkpoints.restore(layout), state_of(6))
        elif number == 99:
            with pytest.raises(
                InputError, match=f"6 is of format 99, .* reads those up to {FORMAT}"
            ):
                checkpoints.restore(layout)
            # Whatever else it may mean by its names, an optimizer's among them.
            other = dataclasses.replace(config, optimizer=OptimizerConfig(1e-3, kind="lion"))
            with pytest.raises(InputError, match="is of format 99"):
                checkpoints.restore(make_layout(other))
            with pytest.raises(InputError, match="is of format 99"):
                SavedWeights(run)
            assert files(run) == before
        else:
            assert int(checkpoints.restore(layout).step) == 3


@pytest.mark.slow
def test_what_a_checkpoint_does_not_hold_begins_anew_and_what_nobody_asks_for_is_left_alone(
    change, run, state_of, capsys
):
    asked = change(training={"spike_deviations": 6.0})
    layout = make_layout(asked)
    state = RunCheckpoints(run).restore_step(6, layout)
    assert "checkpoints/6 holds no recent: that begins anew" in capsys.readouterr().err
    assert same(state, dataclasses.replace(init_state(layout), step=jnp.int32(6)))
    with RunCheckpoints(run, asked.checkpoint) as checkpoints:
        checkpoints.save(7, layout, dataclasses.replace(state, step=jnp.int32(7)), {})
    assert same(RunCheckpoints(run).restore_step(7, make_layout(change())), state_of(7))


def test_without_a_good_checkpoint_the_run_ends_and_nothing_is_changed(config, run):
    for step in ("3", "6"):
        truncate(run / "checkpoints" / step)
    before = {path: path.read_bytes() for path in files(run / "checkpoints")}
    with pytest.raises(RunError, match=r"6 is damaged: .*; none before it is good"):
        loop.train(config, run)
    assert {path: path.read_bytes() for path in files(run / "checkpoints")} == before


def test_a_run_that_lost_its_checkpoints_is_refused_and_keeps_its_history(config, run):
    with MetricsWriter(run, resume_step=0) as metrics:
        for step in (1, 2):
            metrics.write(step, {"loss": 1.0})
    shutil.rmtree(run / "checkpoints")
    before = {path: path.read_bytes() for path in files(run)}
    with pytest.raises(InputError, match=r"figures of 2 steps but no checkpoint in .*--run-dir"):
        loop.train(config, run)
    assert {path: path.read_bytes() for path in files(run)} == before


@pytest.mark.parametrize(
    ("steps", "entries", "begins"),
    [
        (0, None, True),
        (3, [], True),  # the last step before the first save
        (4, [], False),
        (4, ["3.orbax-checkpoint-tmp"], True),
        (3, ["3.damaged"], False),
    ],
)
def test_a_run_that_died_before_its_first_checkpoint_begins_anew(
    config, tmp_path, steps, entries, begins
):
    with MetricsWriter(tmp_path, resume_step=0) as metrics:
        for step in range(1, steps + 1):
            metrics.write(step, {"loss": 1.0})
    for name in entries or []:
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    if entries is not None:
        (tmp_path / "checkpoints").mkdir(exist_ok=True)
    if begins:
        check_history(tmp_path, config, {}, has_start=False)
    else:
        with pytest.raises(InputError, match=f"figures of {steps} steps but no checkpoint"):
            check_history(tmp_path, config, {}, has_start=False)


def test_an_imported_run_without_its_weights_does_not_begin_from_random_ones(config, tmp_path):
    ledger = {"imported": {"sha256": "1"}}
    check_history(tmp_path, config, ledger, has_start=True)
    with pytest.raises(InputError, match="started from imported weights"):
        check_history(tmp_path, config, ledger, has_start=False)


def test_a_name_that_is_a_pattern_is_a_name(layout, config, state_of, tmp_path):
    run = saved(tmp_path / "a[b]" / "*?", layout, state_of)
    assert same(RunCheckpoints(run).restore(layout), state_of(6))
    load_model(run)
    weights = SavedWeights(run)
    assert all(weights.read(tensor).shape == tensor.shape for tensor in tensors(config.model))


@pytest.mark.slow
@pytest.mark.parametrize("part", ["parameters", "moments"])
def test_what_is_not_finite_replaces_no_checkpoint(layout, state_of, run, part):
    state = state_of(9)
    broken = jax.tree.map(lambda x: x.at[..., -1].set(jnp.inf) if x.ndim else x, state)
    state = dataclasses.replace(state, **{part: getattr(broken, part)})
    before = files(run)
    with pytest.raises(RunError, match=r"step 9 are not finite.*checkpoint of step 6 is kept"):
        save(run, layout, state)
    assert files(run) == before


@pytest.mark.slow
def test_a_run_whose_weights_turn_nan_says_so_and_keeps_what_was_good(change, tmp_path):
    wild = {"learning_rate": 1e6, "clip": 0.0, "warmup_tokens": 0}
    config = change(
        optimizer=wild,
        training={"steps": 60, "validate_every": 0, "sample_tokens": 0},
        model={"family": "llama", "dropout": 0.0, "attention_dropout": 0.0},
        checkpoint={"every": 1},
    )
    with pytest.raises(RunError):
        loop.train(config, tmp_path)
    state = RunCheckpoints(tmp_path).restore(make_layout(config))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))


def test_a_full_disk_ends_in_a_sentence_and_the_earlier_checkpoint_is_good(layout, state_of, run):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(RunError, match=r"of step 6 is kept.*What failed: .*too large"):
            save(run, layout, state_of(9))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert same(RunCheckpoints(run).restore(layout), state_of(6))


def test_a_folder_that_cannot_be_written_ends_in_a_sentence_at_once(layout, state_of, run):
    with RunCheckpoints(run, layout.config.checkpoint) as checkpoints:
        (run / "checkpoints").rename(run / "aside")
        (run / "checkpoints").write_text("in the way")
        with pytest.raises(RunError, match=r"No checkpoint could be written to .*Not a directory"):
            checkpoints.save(9, layout, state_of(9), {})


def test_the_page_reads_a_checkpoint_without_this_project(run, state_of):
    snippets = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(snippets) >= 2
    for snippet in snippets:
        names = {}
        exec(snippet.replace("runs/tiny/checkpoints/1000", f"{run}/checkpoints/6"), names)
        table = np.asarray(names["table"])
        np.testing.assert_array_equal(table, state_of(6).parameters["tokens"]["table"])
