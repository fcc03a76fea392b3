"""Training that starts from a model of Hugging Face's, as a person meets it."""

import dataclasses
import importlib
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from fugaku_jax.data.exact_scores import model_pb2
from fugaku_jax.data.order import SampleOrder
from fugaku_jax.data.store import Store
from fugaku_jax.data.tokenizer import Tokenizer
from fugaku_jax.data.tokenizer import train as train_tokenizer
from fugaku_jax.errors import InputError
from fugaku_jax.interop import continual
from fugaku_jax.interop.hf_import import open_hf
from fugaku_jax.interop.import_run import import_run
from fugaku_jax.run.identity import claim_run_dir, run_identity
from fugaku_jax.training import loop
from fugaku_jax.training.checkpoint import RunCheckpoints
from fugaku_jax.training.doubts import doubts

ROOT = Path(__file__).parents[2]
ARGUMENTS = {
    "optimizer.learning-rate": 1e-2,
    "optimizer.min-learning-rate": 1e-3,
    "optimizer.warmup-tokens": 128,
    "training.steps": 4,
    "training.batch-size": 4,
    "training.validate-every": 0,
    "training.validation-tokens": 200,
    "training.sample-tokens": 0,
    "checkpoint.every": 2,
}


@pytest.fixture(scope="module")
def folder(store_path, tmp_path_factory):
    """A model of `transformers` with the store's tokenizer, and its directory."""
    out = tmp_path_factory.mktemp("hf")
    torch.manual_seed(0)
    store = Store.open(str(store_path))
    shape = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 16}
    shape |= {"vocab_size": store.vocab_size}
    GPT2LMHeadModel(GPT2Config(initializer_range=0.2, **shape)).save_pretrained(out)
    (out / "tokenizer.model").write_bytes(store.tokenizer().model_bytes)
    return out


@pytest.fixture
def train(monkeypatch, capsys, store_path):
    """Run `launch/train.py` in this process; return its code, what it printed, and the losses."""
    monkeypatch.syspath_prepend(ROOT / "launch")
    program = importlib.import_module("train")

    def run(*arguments: object, **overrides: object):
        given = ARGUMENTS | {"data.store": store_path} | overrides
        flags = [str(each) for name, value in given.items() for each in (f"--{name}", value)]
        monkeypatch.setattr(sys, "argv", ["train.py", "tiny", *map(str, arguments), *flags])
        return program.main(), capsys.readouterr().out

    return run


def losses(run_dir):
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


@pytest.mark.slow
def test_the_first_loss_is_that_of_transformers_and_a_restart_goes_on(
    train, folder, tmp_path, monkeypatch
):
    run = tmp_path / "run"
    folder = shutil.copytree(folder, tmp_path / "bare")
    (folder / "tokenizer.model").unlink()
    code, said = train("--from-hf", folder, "--run-dir", run, **{"training.stop-after": 2})
    assert code == loop.STOPPED
    assert f"warning: {folder} has no tokenizer that is known here" in said
    config = json.loads((run / "config.json").read_text())
    store = Store.open(config["data"]["store"])
    order = SampleOrder.of_store(store, 16, 4, config["data"]["seed"])
    sets, starts, _ = order.locate(0)
    rows = [
        store.read(int(n), "train", np.array([at]), 17) for n, at in zip(sets, starts, strict=True)
    ]
    tokens = torch.from_numpy(np.concatenate(rows)).long()
    theirs = GPT2LMHeadModel.from_pretrained(folder).eval()
    with torch.no_grad():
        logits = theirs(tokens[:, :-1]).logits.flatten(0, 1)
    expected = torch.nn.functional.cross_entropy(logits, tokens[:, 1:].flatten())
    assert losses(run)[0] == pytest.approx(float(expected), rel=1e-5)
    monkeypatch.setattr(continual, "place_parameters", pytest.fail)  # its own checkpoint is enough
    assert train("--from-hf", folder, "--run-dir", run)[0] == loop.DONE
    assert len(losses(run)) == 4
    assert losses(run)[3] < losses(run)[0]
    ledger = json.loads((run / "ledger.json").read_text())
    assert ledger["imported"]["format"] == "Hugging Face"
    assert ledger["store_sha256"] == store.sha256


@pytest.mark.slow
def test_a_recipe_trains_a_run_directory_that_was_imported_as_it_does_the_model_itself(
    train, folder, tmp_path
):
    ours, imported, stop = tmp_path / "ours", tmp_path / "imported", {"training.stop-after": 3}
    assert train("--from-hf", folder, "--run-dir", ours)[0] == loop.DONE
    import_run(open_hf(folder), imported)
    with pytest.raises(InputError, match=r"model\.n_layers is 2 there and 3 here"):
        train("--run-dir", imported, **{"model.n-layers": 3})
    assert not (imported / "metrics.jsonl").exists()
    assert train("--run-dir", imported, **stop)[0] == loop.STOPPED
    assert train("--run-dir", imported)[0] == loop.DONE  # from a checkpoint of its own
    assert losses(imported) == losses(ours)
    for run in (ours, imported):
        assert json.loads((run / "config.json").read_text())["training"]["steps"] == 4
        ledger = json.loads((run / "ledger.json").read_text())
        assert ledger["imported"]["format"] == "Hugging Face"
        with RunCheckpoints(run) as checkpoints:
            saved = checkpoints._checkpointer.load_checkpointables(None, {"identity": None})
        assert saved["identity"]["ledger"] == ledger


def test_the_shape_comes_from_the_directory_and_is_not_overridden(train, folder, tmp_path):
    code, said = train("--from-hf", folder, "--describe", **{"model.dropout": 0.1})
    described = json.loads(said)
    assert code == 0
    assert described["config"]["model"]["d_model"] == 16
    assert described["config"]["model"]["dropout"] == 0.1
    with pytest.raises(InputError, match=r"model\.n_layers is 3 but 2 in .*leave that out"):
        train("--from-hf", folder, "--run-dir", tmp_path / "run", **{"model.n-layers": 3})
    with pytest.raises(InputError, match="is no model directory"):
        train("--from-hf", tmp_path, "--run-dir", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_store_of_another_tokenizer_is_refused(train, folder, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    for path in folder.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    tokenizer = train_tokenizer(["むかしむかし、あるところに", "the rain in Spain\n"] * 9, 298)
    (other / "tokenizer.model").write_bytes(tokenizer.model_bytes)
    with pytest.raises(InputError, match=f"build --tokenizer {other}/tokenizer.model`, and give"):
        train("--from-hf", other, "--run-dir", tmp_path / "run")
    assert not (tmp_path / "run").exists()
    (other / "tokenizer.model").unlink()
    config = json.loads((other / "config.json").read_text())
    weights = safetensors.numpy.load_file(other / "model.safetensors")
    weights["transformer.wte.weight"] = weights["transformer.wte.weight"][:290].copy()
    safetensors.numpy.save_file(weights, other / "model.safetensors")
    (other / "config.json").write_text(json.dumps(config | {"vocab_size": 290}))
    with pytest.raises(InputError, match="give a store made with the tokenizer of the imported"):
        train("--from-hf", other, "--run-dir", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_cannot_be_checked_or_will_not_leave_is_said_at_the_start(store_path, folder):
    tokenizer = Store.open(str(store_path)).tokenizer()
    start = continual.start_from_hf(folder)
    assert not list(doubts(tokenizer, None))
    assert not list(doubts(tokenizer, start))
    model = model_pb2.ModelProto.FromString(tokenizer.model_bytes)
    model.normalizer_spec.remove_extra_whitespaces = True
    normalising = Tokenizer(model.SerializeToString())
    [unchecked, stays] = doubts(normalising, dataclasses.replace(start, tokenizer=None))
    assert unchecked.startswith(f"{folder} has no tokenizer that is known here")
    assert "normalises text" in stays
    assert "to-hf` will refuse this run" in stays


def test_a_run_goes_on_from_no_weights_but_its_own(config, store_path, tmp_path):
    store = Store.open(str(store_path))
    plain = run_identity(config, store)
    one, other = (plain | {"imported": {"sha256": digit}} for digit in "12")
    claim_run_dir(tmp_path / "imported", config, store, one)
    claim_run_dir(tmp_path / "imported", config, store, one)
    claim_run_dir(tmp_path / "imported", config, store, plain)  # still knows where it started
    claim_run_dir(tmp_path / "random", config, store, plain)
    for run, ledger in (("imported", other), ("random", one)):
        with pytest.raises(InputError, match="was started from other weights"):
            claim_run_dir(tmp_path / run, config, store, ledger)
