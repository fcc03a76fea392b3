"""`launch/trace.py` tells what a run's steps read, to the token and the character."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from store_of_format_1 import make_format_1

from fugaku_jax.data import builtin
from fugaku_jax.data.store import Store
from fugaku_jax.errors import InputError
from fugaku_jax.run.identity import LEDGER_FILE, claim_run_dir, run_identity
from fugaku_jax.run.metrics import read_metrics
from fugaku_jax.tracing.rows import traced_batch, traced_step
from fugaku_jax.tracing.sightings import traced_document
from fugaku_jax.tracing.traced_run import TracedRun
from fugaku_jax.training import loop
from fugaku_jax.training.hooks.hook import Hook


@pytest.mark.slow
def test_what_a_step_of_the_metrics_has_read_is_told_to_the_token_and_the_character(
    trace, change, tmp_path
):
    read = {}

    class Watch(Hook):
        def after_step(self, done):
            tokens = np.asarray(done.batch.tokens)
            read[done.number] = tokens.reshape(-1, tokens.shape[-1])

    run_dir = tmp_path / "run"
    config = change(training={"steps": 3, "sample_tokens": 0}, checkpoint={"every": 1, "keep": 9})
    assert loop.train(config, run_dir, hooks=[Watch()]) == loop.DONE
    assert list(read) == [line["step"] for line in read_metrics(run_dir)]

    run = TracedRun(run_dir)
    texts = {
        each["id"]: each["text"] for domain in ("ja", "en") for each in builtin.documents(domain)
    }
    for step, rows in read.items():
        for traced, row in zip(traced_step(run, step), rows, strict=True):
            columns = [c for s in traced.spans for c in range(s.first_column, s.last_column + 1)]
            assert columns == list(range(len(row)))
            for span in traced.spans:
                # The oracle: the document as it was given, cut anew.
                text = texts[span.document]
                tokens = [*run.tokenizer.encode(text), run.tokenizer.end_of_document]
                _, ends = run.tokenizer.decode_each(tokens)
                end = span.first_character + span.characters
                assert text[span.first_character : end] == span.text
                mine = row[span.first_column : span.last_column + 1].tolist()
                places = [i for i in range(len(tokens)) if tokens[i : i + len(mine)] == mine]
                assert len(text[:end].encode()) in [ends[i + len(mine) - 1] for i in places]

    # `document` is the inverse of `step`.
    seen = {}
    for step in read:
        for row in traced_step(run, step):
            for span in row.spans:
                place = (step, row.row, span.first_column, span.last_column)
                seen.setdefault(span.document, []).append(place)
    for document, places in seen.items():
        (found,) = traced_document(run, document)
        assert [dataclasses.astuple(each) for each in found.seen] == sorted(places)
        first = places[0][0]
        assert found.checkpoint_before == (first - 1 or None)
        assert found.checkpoint_after == first
    table = next(run.documents(0, "train").tables(["id"]))["id"].to_pylist()
    unseen = traced_document(run, next(each for each in table if each not in seen))
    assert [(each.seen, each.checkpoint_before) for each in unseen] == [((), 3)]

    answer = json.loads(trace(run_dir, "step", 2, "--row", 1, "--column", 5, "--json"))
    ((span,),) = [row["spans"] for row in answer["rows"]]
    assert span["document"] == next(
        each.document for each in next(traced_step(run, 2, 1)).spans if each.last_column >= 5
    )
    printed = trace(run_dir, "document", span["document"])
    assert "step 2 row 1 columns " in printed
    assert printed.endswith("last checkpoint without it: step 1; first with it: step 2\n")


@pytest.mark.slow
def test_a_run_begun_on_a_store_of_format_1_goes_on_and_is_traced(change, store_path, tmp_path):
    old = shutil.copytree(store_path, tmp_path / "old")
    make_format_1(old)
    losses, rows = [], []
    for name, store in (("one", old), ("two", store_path)):
        short = {"steps": 2, "validate_every": 0, "sample_tokens": 0}
        config = change(training=short, data={"store": str(store)})
        run_dir = tmp_path / name
        stopped = dataclasses.replace(
            config, training=dataclasses.replace(config.training, stop_after=1)
        )
        assert loop.train(stopped, run_dir) == loop.STOPPED
        if store == old:  # as the version wrote it that began the run
            ledger = json.loads((run_dir / LEDGER_FILE).read_text())
            for each in ledger["sets"]:
                del each["tokens_root"], each["documents_root"]
            (run_dir / LEDGER_FILE).write_text(json.dumps(ledger))
        assert loop.train(config, run_dir) == loop.DONE
        losses.append([line["loss"] for line in read_metrics(run_dir)])
        rows.append(list(traced_step(TracedRun(run_dir), 2)))
    assert losses[0] == losses[1]
    assert rows[0] == rows[1]


def test_what_a_run_went_past_is_told_with_why_and_the_documents(trace, begun):
    run_dir, _ = begun
    assert trace(run_dir, "passed") == "The run went past no batch.\n"
    ledger = json.loads((run_dir / LEDGER_FILE).read_text())
    past = {"first_batch": 3, "last_batch": 4, "checkpoint": 2, "last_step": 5, "why": "spikes"}
    (run_dir / LEDGER_FILE).write_text(json.dumps(ledger | {"passed_over": [past]}))
    run = TracedRun(run_dir)
    three, four = json.loads(trace(run_dir, "passed", "--json"))["batches"]
    assert [three["batch"], four["batch"], three["checkpoint"], four["why"]] == [3, 4, 2, "spikes"]
    assert three["rows"] == json.loads(
        json.dumps([dataclasses.asdict(row) for row in traced_batch(run, 3)])
    )
    # Step 4 now reads the batch behind.
    assert list(traced_step(run, 4)) == list(traced_batch(run, 5))
    printed = trace(run_dir, "passed")
    assert printed.count("after step 5, back to that of step 2: spikes\n") == 2
    assert printed.count("row ") == 2 * run.order.batch_size


def test_the_store_of_a_run_is_the_one_it_read_wherever_it_lies(
    trace, data_program, change, store_path, tmp_path
):
    gone, run = tmp_path / "gone", tmp_path / "run"
    store = Store.open(str(store_path))
    config = change(data={"store": str(gone)})
    claim_run_dir(run, config, store, run_identity(config, store))
    document = next(store.documents(0, "train").tables(["id"]))["id"][0].as_py()
    with pytest.raises(InputError, match="gone: there is no token store here"):
        trace(run, "document", document)
    assert "seen in " in trace(run, "document", document, "--store", store_path)

    # A run is verified by the root in its ledger.
    with pytest.raises(InputError, match="gone: there is no token store here"):
        data_program("verify", run)
    assert data_program("verify", run, "--store", store_path)[0] == 0
    code, said = data_program("verify", run, "--store", store_path, "--document", document)
    assert (code, said.startswith(f"document {document} is row 0 of set ja train")) == (0, True)
    with pytest.raises(InputError, match=r"--store: .* is no run"):
        data_program("verify", store_path, "--store", store_path)

    ledger = (run / LEDGER_FILE).read_text()
    (run / LEDGER_FILE).write_text(ledger.replace(store.sha256, "1" * 64))
    with pytest.raises(InputError, match=rf"not the store .*{store.sha256[:12]}.*{'1' * 12}"):
        trace(run, "document", document, "--store", store_path)
    code, said = data_program("verify", run, "--store", store_path)
    assert (code, said) == (1, f"root: it is {store.sha256}, not {'1' * 64}\n")


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        (["step", 9], "step 9: the run has the steps 1 to 8"),
        (["step", 0], "step 0: the run has the steps 1 to 8"),
        (["step", 1, "--row", 4], "--row 4: a batch of this run has the rows 0 to 3"),
        (["step", 1, "--column", 17], "--column 17: .* the columns 0 to 16"),
        (["document", "nobody"], "document nobody: none in .* has this id"),
    ],
)
def test_what_a_run_does_not_have_gets_a_sentence(trace, begun, asked, sentence):
    with pytest.raises(InputError, match=sentence):
        trace(begun[0], *asked)


def test_a_question_without_a_run_gets_a_sentence(trace):
    with pytest.raises(InputError, match="The run directory comes first"):
        trace("step", 3)


@pytest.mark.parametrize("ledger", ["", "{}", "[]", '{"imported": {"sha256": "0"}}'])
def test_a_run_that_does_not_say_what_it_reads_gets_a_sentence(trace, change, tmp_path, ledger):
    (tmp_path / "config.json").write_text(json.dumps(change().to_dict()))
    (tmp_path / LEDGER_FILE).write_text(ledger)
    with pytest.raises(InputError, match=r"ledger\.json"):
        trace(tmp_path, "document", "a")
