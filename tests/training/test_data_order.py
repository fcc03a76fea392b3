"""`launch/data.py` tells a run's own steps: those of its metrics, what they read and went past."""

import functools
import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

from fugaku_jax.data.store import Store
from fugaku_jax.data.summary import batch_rows, find_document
from fugaku_jax.errors import InputError
from fugaku_jax.run.data_order import open_run_order
from fugaku_jax.run.identity import LEDGER_FILE, claim_run_dir, run_identity
from fugaku_jax.run.metrics import read_metrics
from fugaku_jax.training import loop
from fugaku_jax.training.hooks.hook import Hook

ROOT = Path(__file__).parents[2]


@pytest.fixture
def data(monkeypatch, capsys):
    """Run the program in this process and return what it prints."""
    monkeypatch.syspath_prepend(ROOT / "launch")

    def run(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["data.py", *map(str, arguments)])
        capsys.readouterr()
        runpy.run_path(str(ROOT / "launch" / "data.py"))["main"]()
        return capsys.readouterr().out

    return run


@pytest.fixture
def find(data):
    """Run `find` of the program."""
    return functools.partial(data, "find")


@pytest.mark.slow
def test_every_token_that_a_run_reads_is_found_in_the_step_of_its_metrics(
    find, change, tmp_path, monkeypatch
):
    config = change(training={"steps": 2, "sample_tokens": 0})
    read = {}

    class Watch(Hook):
        def after_step(self, done):
            tokens = np.asarray(done.batch.tokens)
            read[done.number] = tokens.reshape(-1, tokens.shape[-1])

    assert loop.train(config, tmp_path / "run", hooks=[Watch()]) == loop.DONE
    assert list(read) == [line["step"] for line in read_metrics(tmp_path / "run")]

    found = {step: np.full_like(batch, -1) for step, batch in read.items()}
    store, order, steps = open_run_order(tmp_path / "run")
    monkeypatch.setattr(store, "documents", functools.cache(store.documents))
    seen = []
    for index in range(len(store.sets)):
        for row in store.documents(index, "train").to_pylist():
            tokens = store.read(index, "train", np.array([row["start"]]), row["length"])[0]
            for each in find_document(store, order, row["id"], steps)[1]:
                part = read[each.step][each.row, each.first : each.last + 1]
                assert part.tobytes() in tokens.tobytes()
                found[each.step][each.row, each.first : each.last + 1] = part
                seen.append((row["id"], each))
    np.testing.assert_equal(found, read)

    document, last = seen[-1]
    printed = find(tmp_path / "run", "--document", document)
    assert f"step {last.step} row {last.row} tokens {last.first}-{last.last}\n" in printed
    rows = sum(identity == document for identity, _ in seen)
    assert printed.endswith(f"in {rows} rows of the run's 2 steps\n")


def test_the_store_of_a_run_is_the_one_it_read_wherever_it_lies(find, change, store_path, tmp_path):
    gone, run = tmp_path / "gone", tmp_path / "run"
    store = Store.open(str(store_path))
    config = change(data={"store": str(gone)})
    claim_run_dir(run, config, store, run_identity(config, store))
    document = store.documents(0, "train")["id"][0].as_py()
    with pytest.raises(InputError, match="gone: there is no token store here"):
        find(run, "--document", document)
    assert "of the run's 8 steps" in find(run, "--document", document, "--store", store_path)

    ledger = (run / LEDGER_FILE).read_text()
    (run / LEDGER_FILE).write_text(ledger.replace(store.sha256, "1" * 64))
    with pytest.raises(InputError, match=rf"not the store .*{store.sha256[:12]}.*{'1' * 12}"):
        find(run, "--document", document, "--store", store_path)


def test_what_a_run_went_past_is_printed_with_why_and_the_documents(
    data, change, store_path, tmp_path
):
    store = Store.open(str(store_path))
    config = change()
    claim_run_dir(tmp_path, config, store, run_identity(config, store))
    assert data("passed", tmp_path) == "The run went past no batch.\n"
    ledger = json.loads((tmp_path / LEDGER_FILE).read_text())
    past = {"first_batch": 3, "last_batch": 4, "checkpoint": 2, "last_step": 5, "why": "spikes"}
    (tmp_path / LEDGER_FILE).write_text(json.dumps(ledger | {"passed_over": [past]}))
    first, *rows = data("passed", tmp_path).splitlines()
    assert first == "after step 5, back to that of 2: spikes"
    _, order, _ = open_run_order(tmp_path)
    assert rows == [str(row) for row in batch_rows(store, order, [3, 4])]
    assert len(rows) == 2 * config.training.batch_size


@pytest.mark.parametrize("ledger", ["", "{}", "[]", '{"imported": {"sha256": "0"}}'])
def test_a_run_that_does_not_say_what_it_reads_gets_a_sentence(find, change, tmp_path, ledger):
    (tmp_path / "config.json").write_text(json.dumps(change().to_dict()))
    (tmp_path / LEDGER_FILE).write_text(ledger)
    with pytest.raises(InputError, match=r"ledger\.json"):
        find(tmp_path, "--document", "a")
