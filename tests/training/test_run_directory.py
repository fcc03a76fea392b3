"""A run directory belongs to one run, and to one program at a time."""

import dataclasses
import os
import subprocess
import sys

import pytest

from fugaku_jax.data.store import Store
from fugaku_jax.errors import InputError
from fugaku_jax.run.identity import (
    check_run_dir,
    claim_run_dir,
    read_ledger,
    run_identity,
    with_imported_model,
)
from fugaku_jax.run.lock import run_lock
from fugaku_jax.training import loop

HOLD = """
import sys
from pathlib import Path
from fugaku_jax.run.lock import run_lock
with run_lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def contents(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_a_run_directory_is_refused_while_another_program_is_in_it_and_free_once_it_is_killed(
    config, tmp_path
):
    run = tmp_path / "run"
    first = subprocess.Popen(
        [sys.executable, "-c", HOLD, run], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert first.stdout.readline() == "held\n"
    before = contents(run)
    with pytest.raises(InputError, match=rf"is being trained by process {first.pid} on "):
        loop.train(config, run)
    assert contents(run) == before
    first.kill()
    first.communicate()
    with run_lock(run):
        check_run_dir(run, config)  # the lock's file is not in the way


def test_what_a_start_leaves_that_was_killed_is_no_obstacle(config, store_path, tmp_path):
    left = [".lock", ".ledger.json.4711.partial", ".config.json.4711.partial"]
    for name in left:
        (tmp_path / name).touch()
    check_run_dir(tmp_path, config)
    store = Store.open(str(store_path))
    claim_run_dir(tmp_path, config, store, run_identity(config, store))
    (tmp_path / ".metrics.jsonl.4711.partial").touch()
    claim_run_dir(tmp_path, config, store, run_identity(config, store))
    assert {path.name for path in tmp_path.iterdir()} == {".lock", "config.json", "ledger.json"}


@pytest.mark.parametrize("imported", [False, True])
def test_a_start_killed_between_its_files_can_be_repeated(
    config, change, store_path, tmp_path, monkeypatch, imported
):
    store = Store.open(str(store_path))
    identity = run_identity(config, store)
    if imported:  # as launch/convert.py leaves it: nothing but the model is meant
        defaults = change(training={"steps": 1, "batch_size": 1, "micro_batches": 1})
        claim_run_dir(tmp_path, defaults, store, {"imported": {"sha256": "1"}})
    replace, written = os.replace, []

    def killed(source, target):
        if written:
            raise KeyboardInterrupt
        written.append(target)
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.replace", killed)
        with pytest.raises(KeyboardInterrupt):
            claim_run_dir(tmp_path, config, store, identity)
    claim_run_dir(tmp_path, config, store, identity)
    assert read_ledger(tmp_path) == ({"imported": {"sha256": "1"}} if imported else {}) | identity


def test_an_imported_run_gives_the_shape_and_the_recipe_all_else(
    config, change, store_path, tmp_path
):
    store = Store.open(str(store_path))
    theirs = change(model={"n_layers": 3, "dropout": 0.0}, training={"steps": 1, "seed": 7})
    claim_run_dir(tmp_path, theirs, store, {"imported": {"sha256": "1"}})
    ours = with_imported_model(config, tmp_path)
    assert ours == change(model={"n_layers": 3})
    check_run_dir(tmp_path, ours)
    with pytest.raises(InputError, match=r"model.n_layers is 3 there and 2 here"):
        check_run_dir(tmp_path, config)
    claim_run_dir(tmp_path, ours, store, run_identity(ours, store))
    with pytest.raises(InputError, match=r"training.steps is 8 there and 9 here"):
        check_run_dir(
            tmp_path,
            dataclasses.replace(ours, training=dataclasses.replace(ours.training, steps=9)),
        )
