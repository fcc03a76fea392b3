"""`trace.py loss` tells the loss of each document as the step computed it that read it."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from fugaku_jax.data.store import Store
from fugaku_jax.errors import InputError
from fugaku_jax.models.layout import layout_for_use
from fugaku_jax.run.document_losses import (
    RECORD,
    drop_losses_after,
    losses_file,
    read_document_losses,
    spans_of_documents,
)
from fugaku_jax.run.identity import claim_run_dir, run_identity
from fugaku_jax.tracing.losses import losses_of_documents, traced_losses
from fugaku_jax.tracing.traced_run import TracedRun
from fugaku_jax.training import loop
from fugaku_jax.training.checkpoint import RunCheckpoints
from fugaku_jax.training.whole_model import whole_model

END = 2
PROGRAM = Path(__file__).parent / "kept_losses.py"
MESHES = {
    "context": {"data": 2, "context": 2},
    "tensor": {"data": 2, "tensor": 2, "weights": "fsdp"},
    "pipeline": {"data": 1, "tensor": 1, "context": 2, "pipeline": 2},
}


def test_a_span_ends_with_the_token_that_ends_a_document():
    tokens = np.array([[5, END, END, 7], [END, 5, 6, 8]], np.int32)
    losses = np.arange(8, dtype=np.float32).reshape(2, 4)
    found = spans_of_documents(3, np.array([4, 6]), 1, tokens, losses, END)
    assert found.tolist() == [
        (3, 4, 1, 2, 0.5),
        (3, 4, 3, 3, 2.0),
        (3, 4, 4, 4, 3.0),
        (3, 6, 1, 1, 4.0),
        (3, 6, 2, 4, 6.0),
    ]


def test_losses_of_steps_that_are_taken_again_are_dropped_and_of_a_kill_nothing_is_half_read(
    tmp_path,
):
    steps = np.zeros(7, RECORD)
    steps["step"] = [1, 1, 2, 3, 3, 4, 5]
    for rank in (0, 1):
        path = losses_file(tmp_path, rank)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(steps.tobytes()[: -7 if rank else None])
    whole = sorted([*steps["step"].tolist(), 1, 1, 2, 3, 3, 4])
    assert read_document_losses(tmp_path)["step"].tolist() == whole
    drop_losses_after(tmp_path, 3)
    assert read_document_losses(tmp_path)["step"].tolist() == [1, 1, 1, 1, 2, 2, 3, 3, 3, 3]
    drop_losses_after(tmp_path, 0)
    assert len(read_document_losses(tmp_path)) == 0


@pytest.fixture(scope="module")
def many(config, tmp_path_factory):
    """A run that sees its documents several times, stopped on the way and begun again."""
    run_dir = tmp_path_factory.mktemp("losses") / "run"
    model = dataclasses.replace(config.model, dropout=0.0, attention_dropout=0.0)
    training = dataclasses.replace(
        config.training, steps=6, sample_tokens=0, validate_every=0, document_losses=True
    )
    every = dataclasses.replace(config.checkpoint, every=1, keep=9)
    config = dataclasses.replace(config, model=model, training=training, checkpoint=every)
    stopping = dataclasses.replace(training, stop_after=3)
    assert loop.train(dataclasses.replace(config, training=stopping), run_dir) == loop.STOPPED
    # What a session left that was killed after its last checkpoint.
    with losses_file(run_dir, 0).open("ab") as file:
        file.write(np.array([(4, 0, 1, 16, 9.0)], RECORD).tobytes() + b"half")
    assert loop.train(config, run_dir) == loop.DONE
    return config, run_dir


@pytest.mark.slow
def test_the_losses_are_those_of_the_parameters_that_the_step_began_with(many):
    config, run_dir = many
    run, layout = TracedRun(run_dir), layout_for_use(config)
    found = list(losses_of_documents(run))
    T, compared = config.model.sequence_length, 0
    with RunCheckpoints(run_dir) as checkpoints:
        for step in range(2, 7):
            state = checkpoints.restore_step(step - 1, layout)
            sets, starts, _ = run.order.locate(step - 1)
            tokens = np.stack(
                [
                    run.store.read(int(s), "train", a[None], T + 1)[0]
                    for s, a in zip(sets, starts, strict=True)
                ]
            )
            losses = _losses(layout, state.parameters, tokens)
            for document in found:
                for seen in (each for each in document.seen if each.step == step):
                    one = max(seen.first_column, 1)
                    expected = losses[seen.row, one - 1 : seen.last_column].mean()
                    assert seen.loss == pytest.approx(expected, rel=2e-5)
                    compared += seen.tokens
    assert compared == 5 * T * config.training.batch_size
    assert {each.step for document in found for each in document.seen} == set(range(1, 7))


def _losses(layout, parameters, tokens):
    with layout.active():
        structure, weights = nnx.split(whole_model(layout, parameters))

        @jax.jit
        def losses(weights, tokens):
            model = nnx.merge(structure, weights)
            logits = jax.nn.log_softmax(model.logits(model(tokens[:, :-1])))
            return -(np.e**0) * jax.numpy.take_along_axis(logits, tokens[:, 1:, None], -1)[..., 0]

        return np.asarray(losses(weights, tokens))


def test_what_rose_most_is_most_forgotten_and_what_was_last_worst_is_worst(
    change, store_path, tmp_path
):
    # A store of which an epoch is a few steps, so that all is seen again.
    store = Store.open(str(store_path))
    config = change(training={"steps": 400})
    claim_run_dir(tmp_path, config, store, run_identity(config, store))
    run, T, rows = TracedRun(tmp_path), 16, 4
    random, records, expected = np.random.default_rng(0), [], {}
    for step in range(1, 401):
        sets, starts, _ = run.order.locate(step - 1)
        for row in range(rows):
            at, start = int(sets[row]), int(starts[row])
            tokens = store.read(at, "train", np.array([start]), T + 1)[0]
            losses = random.uniform(0, 8, T).astype(np.float32)
            records.append(
                spans_of_documents(
                    step, np.array([row]), 1, tokens[None, 1:], losses[None], store.end_of_document
                )
            )
            for each in run.documents_in(at, start, start + T):
                one = max(each["start"] - start, 1)
                end = min(each["start"] + each["length"] - 1 - start, T)
                if end >= one:
                    parts = expected.setdefault((at, each["id"]), {})
                    mean = float(losses[one - 1 : end].mean())
                    parts.setdefault(start, []).append((step, mean, end - one + 1))
    path = losses_file(tmp_path, 0)
    path.parent.mkdir()
    path.write_bytes(np.concatenate(records).tobytes())

    rises, last = {}, {}
    for key, parts in expected.items():
        last[key] = np.average(
            [x[-1][1] for x in parts.values()], weights=[x[-1][2] for x in parts.values()]
        )
        rises[key] = max(
            (b[1] - a[1] for x in parts.values() for i, b in enumerate(x) for a in x[:i]),
            default=-1,
        )
    told = traced_losses(run, most=5, shortest=1)
    names = [each.name for each in store.sets]
    by_last, by_rise = (sorted(x, key=lambda key: -x[key])[:5] for x in (last, rises))
    assert [(each.set, each.document) for each in told.worst] == [(names[i], d) for i, d in by_last]
    assert [(each.set, each.document) for each in told.forgotten] == [
        (names[i], d) for i, d in by_rise
    ]
    for each, key in zip(told.forgotten, by_rise, strict=True):
        assert each.rise == pytest.approx(rises[key], rel=1e-5)
        assert {x.step for x in each.seen} >= set(each.rise_steps)
    assert all(each.tokens >= 30 for each in traced_losses(run, shortest=30).worst)

    # A step of which a record is missing, and one whose loss is not finite, say nothing.
    whole = np.concatenate(records)
    whole["loss"][whole["step"] == 7] = np.nan
    path.write_bytes(whole[:-1].tobytes())
    steps = {seen.step for each in losses_of_documents(run) for seen in each.seen}
    assert steps == set(range(1, 400)) - {7}


def test_a_run_that_kept_no_losses_is_told_how_to(begun, trace):
    with pytest.raises(InputError, match=r"train it with --training\.document-losses"):
        trace(begun[0], "loss")


@pytest.mark.slow
def test_the_program_prints_both_lists(many, trace, tmp_path):
    told = json.loads(trace(many[1], "loss", "--worst", 3, "--json"))
    assert len(told["worst"]) == 3
    assert told["worst"][0]["last_loss"] >= told["worst"][1]["last_loss"] > 0
    page = tmp_path / "page.html"
    printed = trace(many[1], "loss", "--worst", 1, "--html", page)
    assert "last loss" in page.read_text()
    assert printed.startswith("worst:\n")
    assert "most forgotten:\n" in printed


@pytest.mark.slow
def test_every_mesh_keeps_the_losses_of_one_device(many, run_emulated, tmp_path):
    config, one = many
    few = dataclasses.replace(config.training, stop_after=3)
    config = dataclasses.replace(config, training=few)
    run_emulated(PROGRAM, 4, tmp_path, json.dumps(config.to_dict()), json.dumps(MESHES))
    expected = [x for x in read_document_losses(one) if x["step"] <= 3]
    sums, places = summed(expected), by_place(one)
    for name in MESHES:
        found = read_document_losses(tmp_path / name)
        assert summed(found) == pytest.approx(sums, rel=1e-5)
        assert by_place(tmp_path / name) == pytest.approx(places, rel=1e-5)


def by_place(run_dir):
    """Return the losses of documents in the first three steps."""
    return {
        (each.set, each.document, seen.step, seen.row, seen.first_column): seen.loss
        for each in losses_of_documents(TracedRun(run_dir))
        for seen in each.seen
        if seen.step <= 3
    }


def summed(records):
    """Return the sum of losses of each row of each step."""
    found = {}
    for step, row, first, last, loss in (x.tolist() for x in records):
        found[step, row] = found.get((step, row), 0.0) + loss * (last - first + 1)
    return found
