"""A whole run: what it leaves, and that a restart changes nothing."""

import io
import json
import math
import os
import shutil
import signal
import threading

import jax
import numpy as np
import pytest

from fugaku_jax.config import flat_fields
from fugaku_jax.data.builtin import open_store
from fugaku_jax.data.store import Store
from fugaku_jax.errors import InputError, RunError
from fugaku_jax.inference.continuation import Options
from fugaku_jax.inference.engine import Engine
from fugaku_jax.run.metrics import read_metrics, read_samples
from fugaku_jax.training import loop
from fugaku_jax.training.checkpoint import load_model
from fugaku_jax.training.hooks.hook import Hook


class Each(Hook):
    """Calls a function with each step that is done."""

    def __init__(self, function):
        self.after_step = function


def losses(run_dir):
    return [line["loss"] for line in read_metrics(run_dir)]


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory):
    """The run of a process that was never stopped."""
    run = tmp_path_factory.mktemp("whole") / "run"
    assert loop.train(config, run) == loop.DONE
    return run


@pytest.fixture(scope="module")
def uninterrupted(whole):
    """The oracle of every restart."""
    return losses(whole)


@pytest.mark.slow
def test_losses_of_a_run_stopped_after_a_step_and_after_three_more_are_bit_identical(
    change, tmp_path, uninterrupted
):
    for stop_after, steps in ((1, 1), (3, 4)):
        stopping = change(training={"stop_after": stop_after})
        assert loop.train(stopping, tmp_path / "parts") == loop.STOPPED
        assert len(losses(tmp_path / "parts")) == steps
    assert loop.train(stopping, tmp_path / "parts") == loop.STOPPED
    assert loop.train(stopping, tmp_path / "parts") == loop.DONE
    assert losses(tmp_path / "parts") == uninterrupted


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_restarts_are_exact_in_narrow_formats_too(change, tmp_path, precision):
    training = {"precision": precision, "steps": 4, "sample_tokens": 0}
    loop.train(change(training=training), tmp_path / "whole")
    assert (
        loop.train(change(training=training | {"stop_after": 2}), tmp_path / "parts")
        == loop.STOPPED
    )
    assert loop.train(change(training=training), tmp_path / "parts") == loop.DONE
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")


@pytest.mark.slow
def test_a_run_killed_between_checkpoints_repeats_its_steps_exactly(
    config, tmp_path, uninterrupted
):
    def die(done):
        if done.number == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loop.train(config, tmp_path / "run", hooks=[Each(die)])
    assert len(losses(tmp_path / "run")) == 5
    assert loop.train(config, tmp_path / "run") == loop.DONE
    assert losses(tmp_path / "run") == uninterrupted


@pytest.mark.slow
def test_sigterm_saves_after_the_step_in_flight_and_says_that_the_run_can_go_on(
    config, tmp_path, uninterrupted
):
    def interrupt(done):
        if done.number == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    assert loop.train(config, tmp_path / "run", hooks=[Each(interrupt)]) == loop.STOPPED
    assert signal.getsignal(signal.SIGTERM) == before
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["3"]
    assert len(losses(tmp_path / "run")) == 3
    assert loop.train(config, tmp_path / "run") == loop.DONE
    assert losses(tmp_path / "run") == uninterrupted


def test_a_run_leaves_what_the_documentation_says(config, whole):
    names = {path.name for path in whole.iterdir()}
    assert names >= {
        *("config.json", "ledger.json", "metrics.jsonl", "samples.jsonl", "log.txt"),
        *("checkpoints", "report.html", "sessions.json", "tensorboard"),
    }
    lines = read_metrics(whole)
    assert [line["step"] for line in lines] == list(range(1, 9))
    assert set(lines[0]) >= {
        *("step", "loss", "grad_norm", "learning_rate", "tokens", "tokens_per_second"),
        *("step_seconds", "mfu", "memory_bytes"),
    }
    assert "validation_bits_per_byte" in lines[3]
    assert {"validation/ja/loss", "validation/en/bits_per_byte"} <= set(lines[7])
    assert {sample["prompt"] for sample in read_samples(whole)} == set(config.training.prompts)
    assert sorted(p.name for p in (whole / "checkpoints").iterdir()) == ["6", "8"]
    ledger = json.loads((whole / "ledger.json").read_text())
    store = Store.open(config.data.store)
    assert ledger["store_sha256"] == store.sha256
    for each, written in zip(store.sets, ledger["sets"], strict=True):
        assert written["tokens_root"] == each.train.tokens_root
        assert written["documents_root"] == each.train.documents_root
    # The same stands in every checkpoint.
    for path in (whole / "checkpoints").iterdir():
        assert json.loads((path / "identity" / "data.json").read_text())["ledger"] == ledger
    assert not [thread for thread in threading.enumerate() if thread.name == "loader"]


@pytest.mark.slow
def test_the_loss_falls(change, tmp_path):
    loop.train(
        change(
            training={"steps": 60, "validate_every": 0, "sample_tokens": 0}, model={"dropout": 0.0}
        ),
        tmp_path,
    )
    curve = losses(tmp_path)
    # It starts at log V, the loss of a uniform guess; 3,840 tokens are enough for the commonest.
    assert curve[0] == pytest.approx(np.log(1200), abs=0.05)
    assert np.mean(curve[-5:]) < curve[0] - 0.5


@pytest.mark.slow
def test_a_finished_run_says_so_and_changes_nothing(config, whole, capsys, monkeypatch):
    monkeypatch.undo()  # its report has charts
    before = (whole / "metrics.jsonl").read_bytes()
    assert loop.train(config, whole) == loop.DONE
    assert "is finished" in capsys.readouterr().out
    assert (whole / "metrics.jsonl").read_bytes() == before
    report = (whole / "report.html").read_bytes()
    (whole / "report.html").unlink()  # killed after its last save
    assert loop.train(config, whole) == loop.DONE
    assert (whole / "report.html").read_bytes() == report


@pytest.mark.slow
def test_another_configuration_is_refused_with_the_fields_that_differ(change, tmp_path):
    loop.train(change(training={"stop_after": 1}), tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    other = change(model={"n_layers": 3}, optimizer={"learning_rate": 0.5})
    with pytest.raises(InputError, match=r"model.n_layers is 2 there and 3 here; optimizer.learn"):
        loop.train(other, tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


@pytest.mark.slow
def test_fields_that_do_not_change_what_is_learned_may_change(change, tmp_path):
    loop.train(change(training={"stop_after": 1}), tmp_path)
    other = change(
        training={"validate_every": 2, "validation_tokens": 300, "steps": 8}, data={"prefetch": 1}
    )
    assert loop.train(other, tmp_path) == loop.DONE


@pytest.mark.slow
def test_another_store_is_refused(change, tmp_path, store_path):
    two = {"steps": 2, "sample_tokens": 0}
    loop.train(change(training=two | {"stop_after": 1}), tmp_path / "run")
    moved = tmp_path / "moved"
    shutil.copytree(store_path, moved)
    elsewhere = change(training=two, data={"store": str(moved)})
    assert loop.train(elsewhere, tmp_path / "run") == loop.DONE
    ledger = tmp_path / "run" / "ledger.json"
    ledger.write_text(ledger.read_text().replace('"store_sha256": "', '"store_sha256": "0'))
    with pytest.raises(InputError, match="trained on another store"):
        loop.train(change(training=two), tmp_path / "run")


@pytest.mark.parametrize(
    ("sections", "sentence"),
    [
        ({"model": {"vocab_size": 300}}, r"model.vocab_size is 300, .* 1200 pieces"),
        ({"model": {"sequence_length": 10**6}}, r"model.sequence_length.*longest run"),
    ],
)
def test_a_store_that_does_not_fit_is_refused_and_nothing_is_written(
    change, tmp_path, sections, sentence
):
    with pytest.raises(InputError, match=sentence):
        loop.train(change(**sections), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_directory_that_holds_something_else_is_refused(config, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="not empty and holds no run"):
        loop.train(config, tmp_path)


def diverging(change, **training):
    """A run whose every loss is infinite."""
    training |= {"z_loss": 1e38, "precision": "fp32", "validate_every": 0, "sample_tokens": 0}
    return change(training=training, model={"init_std": 1e10}, checkpoint={"every": 1})


@pytest.mark.slow
def test_a_gradient_that_stays_nan_ends_the_run(change, tmp_path):
    with pytest.raises(RunError, match=r"not finite in the 3 steps 1 to 3.*no checkpoint yet"):
        loop.train(diverging(change, most_skipped=3), tmp_path)
    assert not list((tmp_path / "checkpoints").iterdir())


@pytest.mark.slow
def test_a_run_whose_last_loss_is_nan_is_not_done_and_keeps_the_checkpoint_from_before(
    change, tmp_path, capsys
):
    def diverge(done):
        if done.number > 1:
            done.figures["loss"] = math.nan

    three = change(
        training={"steps": 3, "validate_every": 0, "sample_tokens": 0}, checkpoint={"every": 1}
    )
    with pytest.raises(RunError, match=r"not finite at step 3.*the checkpoint of step 1 is kept"):
        loop.train(three, tmp_path, hooks=[Each(diverge)])
    assert "done; see" not in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["1"]


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["full disk", "full disk, unsaved", "directory gone"])
def test_what_the_system_refuses_is_a_sentence_that_says_what_is_safe(
    change, tmp_path, monkeypatch, fault
):
    run = tmp_path / "run"

    def fail(done):
        if done.number == 3 and fault.startswith("full disk"):
            full = io.FileIO("/dev/full", "w")
            monkeypatch.setattr("fugaku_jax.run.metrics._append", lambda *_: full.write(b" "))
        if done.number == 2 and fault == "directory gone":
            run.rename(tmp_path / "elsewhere")

    if fault == "full disk, unsaved":  # what was begun to be saved never reached the disk
        monkeypatch.setattr(loop.RunCheckpoints, "save", lambda *_: None)
    said = {
        "full disk, unsaved": "No space left on device; there is no checkpoint yet",
        "full disk": "cannot go on: No space left on device; the checkpoint of step 2 is kept",
        "directory gone": "run is gone",
    }
    with pytest.raises(RunError, match=said[fault]):
        loop.train(change(training={"steps": 3}, checkpoint={"every": 2}), run, hooks=[Each(fail)])


@pytest.mark.slow
def test_a_run_is_the_same_where_jax_was_told_to_compute_in_64_bits(change, tmp_path):
    one = change(training={"steps": 1, "sample_tokens": 0})
    loop.train(one, tmp_path / "as always")
    jax.config.update("jax_enable_x64", True)
    try:
        assert loop.train(one, tmp_path / "told") == loop.DONE
    finally:
        jax.config.update("jax_enable_x64", False)
    assert losses(tmp_path / "told") == losses(tmp_path / "as always")


@pytest.mark.slow
def test_samples_are_what_the_saved_model_writes_after_prompts_of_any_length(change, tmp_path):
    prompts = "3 wet", "雨の" * 50
    config = change(data={"reset_at_document": True}, training={"prompts": prompts})
    loop.train(config, tmp_path)
    loaded, model = load_model(tmp_path)
    assert flat_fields(loaded.to_dict()) == flat_fields(config.to_dict())
    tokenizer = open_store(config.data.store).tokenizer()
    engine = Engine(model, tokenizer, None)  # a sample begins as documents did
    asked = [
        (engine.tokens(prompt)[-15:], Options(4, seed=8 + number))
        for number, prompt in enumerate(prompts)
    ]
    texts = [row.text for row in engine.answers(asked)]
    found = [(each["prompt"], each["text"]) for each in read_samples(tmp_path)]
    assert found == list(zip(prompts, texts, strict=True))
