"""`trace.py forget` makes a run that goes on without documents, and it never reads them."""

import json
import shlex
import shutil

import jax
import numpy as np
import pytest
import tyro

from fugaku_jax.config import Config
from fugaku_jax.errors import InputError
from fugaku_jax.models.layout import make_layout
from fugaku_jax.run.checkpoint_folder import checkpoint_folder
from fugaku_jax.run.configuration import read_config
from fugaku_jax.run.going_back import SickSteps, goings_back, where_to
from fugaku_jax.run.metrics import METRICS_FILE, read_metrics
from fugaku_jax.tracing.forgetting import way_around
from fugaku_jax.tracing.rows import traced_step
from fugaku_jax.tracing.sightings import traced_document
from fugaku_jax.tracing.traced_run import TracedRun
from fugaku_jax.training import loop
from fugaku_jax.training.checkpoint import RunCheckpoints

STEPS = 6


@pytest.fixture
def long(begun):
    """A run of so many steps that it sees its documents again and again, of which none is taken."""
    run_dir = begun[0]
    config = json.loads((run_dir / "config.json").read_text())
    config["training"]["steps"] = 200
    (run_dir / "config.json").write_text(json.dumps(config))
    return TracedRun(run_dir)


def seen_in(run, step):
    return {span.document for row in traced_step(run, step) for span in row.spans}


def test_no_step_of_the_new_order_reads_the_documents_and_no_more_is_passed_over_than_reads_them(
    long,
):
    documents = sorted(seen_in(long, 40))[:2]
    way = way_around(long, documents)
    assert way.checkpoint == 0
    assert way.free == way.marked == ()
    without = long.passing(range(each, each + 1) for each in way.batches)
    for document in documents:
        assert [each.seen for each in traced_document(without, document)] == [()]
    assert not any(seen_in(without, step) & set(documents) for step in range(1, 201, 7))
    # The oracle: a plain walk along the order.
    expected, step, batch = [], 0, 0
    places = {
        (index, start // 16)
        for document in documents
        for sighting in traced_document(long, document)[0].seen
        for index, start in [
            [int(x[sighting.row]) for x in long.order.locate(sighting.step - 1)[:2]]
        ]
    }
    while step < 200:
        sets, starts, _ = (x.tolist() for x in long.order.locate_batch(batch))
        if places & {(index, start // 16) for index, start in zip(sets, starts, strict=True)}:
            expected.append(batch)
        else:
            step += 1
        batch += 1
    assert [each for each in way.batches if each < batch] == expected
    assert len(way.batches) - len(expected) <= 1


def test_documents_that_are_in_most_batches_are_too_many(long):
    table = {span for step in range(1, 120, 2) for span in seen_in(long, step)}
    with pytest.raises(InputError, match="Hardly a batch"):
        way_around(long, sorted(table))


def test_what_cannot_be_made_gets_a_sentence(trace, begun, tmp_path):
    document = min(seen_in(TracedRun(begun[0]), 1))
    with pytest.raises(InputError, match="nobody: none in"):
        trace(begun[0], "forget", document, "nobody")
    with pytest.raises(InputError, match="is there already"):
        trace(begun[0], "forget", document, "--run-dir", tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"--run-dir .*cannot be made"):
        trace(begun[0], "forget", document, "--run-dir", tmp_path / "file" / "new")
    with pytest.raises(InputError, match="Give the id of a document"):
        trace(begun[0], "forget")


def test_what_a_run_is_to_go_without_is_no_time_that_it_went_back(trace, begun, tmp_path):
    new = tmp_path / "new"
    document = min(seen_in(TracedRun(begun[0]), 3))
    trace(begun[0], "forget", document, "--run-dir", new)
    assert all(each.documents == (document,) for each in goings_back(new))
    assert document in trace(new, "passed")
    checkpoint_folder(new, 0).mkdir(parents=True)
    (checkpoint_folder(new, 0) / "_CHECKPOINT_METADATA").touch()
    # The first time alone goes past the sick steps only.
    batch = TracedRun(new).order.passed_over.batch
    gone = where_to(new, SickSteps(5, 6, "why", "safe"))
    assert (gone.first_batch, gone.last_batch) == (batch(4), batch(5))


@pytest.mark.slow
def test_the_new_run_trains_on_bit_for_bit_up_to_there_and_without_the_documents(
    trace, change, tmp_path
):
    config = change(
        training={"steps": STEPS, "sample_tokens": 0, "validate_every": 0},
        checkpoint={"every": 1, "keep": 9},
    )
    old, new, anew = tmp_path / "run", tmp_path / "new", tmp_path / "anew"
    assert loop.train(config, old) == loop.DONE
    run = TracedRun(old)
    before = {document for step in (1, 2, 3) for document in seen_in(run, step)}
    document = min(seen_in(run, 4) - before)

    told = json.loads(trace(old, "forget", document, "--run-dir", new, "--json"))
    assert (told["checkpoint"], told["first_seen"]) == (3, 4)
    assert (told["free"], told["marked"], told["steps_again"]) == ([1, 2, 3], [4, 5, 6], 3)
    program, name, *arguments = shlex.split(told["command"])[1:]
    assert (program, arguments[:2]) == ("launch/train.py", ["--run-dir", str(new)])
    from recipes import load_recipe

    asked = tyro.cli(Config, default=load_recipe(name), args=arguments[2:])
    assert asked == read_config(old) == config

    lines = read_metrics(new)
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert loop.train(asked, new) == loop.DONE
    without = TracedRun(new)
    assert [each.seen for each in traced_document(without, document)] == [()]
    assert [line["step"] for line in read_metrics(new)] == list(range(1, STEPS + 1))
    for ours, theirs in zip(read_metrics(new)[:3], read_metrics(old), strict=False):
        assert ours["loss"] == theirs["loss"]
    assert weights(config, new, 3) == weights(config, old, 3)
    assert weights(config, new, 4) != weights(config, old, 4)

    # Without a checkpoint that is free of it: anew, and alike up to the first step that saw it.
    for step in (1, 2, 3):
        shutil.rmtree(checkpoint_folder(old, step))
    printed = trace(old, "forget", document, "--run-dir", anew)
    assert "from the beginning; steps taken anew: 6, batches passed over: " in printed
    assert not (anew / METRICS_FILE).exists()
    assert loop.train(asked, anew) == loop.DONE
    assert weights(config, anew, 3) == weights(config, new, 3)
    assert weights(config, anew, 6) == weights(config, new, 6)


def weights(config, run_dir, step):
    with RunCheckpoints(run_dir) as checkpoints:
        state = checkpoints.restore_step(step, make_layout(config))
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state)]
