"""A model card says what the run says, whatever state its files are in."""

import json

import pytest
from small_runs import LLAMA, make_run

from fugaku_jax.evaluation.task_score import TaskScore
from fugaku_jax.interop.licences import licence_metadata
from fugaku_jax.interop.model_card import model_card
from fugaku_jax.run.configuration import read_config
from fugaku_jax.run.metrics import METRICS_FILE
from fugaku_jax.run.scores import Grading, save_grading
from fugaku_jax.run.sessions import SESSIONS_FILE, record_session


@pytest.fixture(scope="module")
def run(store, tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("card") / "run", LLAMA, store)


def scored(step, loss):
    figures = {"validation_loss": loss, "validation_bits_per_byte": loss}
    figures |= {"validation/ja/loss": loss, "validation/ja/bits_per_byte": loss}
    return {"step": step, "step_seconds": 1800.0} | figures


def test_a_card_says_what_was_read_and_what_stands_before_a_text(run, store):
    config = read_config(run)
    card = model_card(config, store, run, 7, begins=True)
    assert card.startswith("---\nlibrary_name: transformers\n")
    assert "| tales | ja | 1.0 |" in card
    assert "CC0-1.0" in card
    assert "\nlicense: cc0-1.0\nlanguage: [ja]\n" in card
    assert store.sha256 in card
    side = store.sets[0].train
    assert f"`{side.tokens_root}` `{side.documents_root}` |" in card
    assert (
        f"order of seed {config.data.seed}, in batches of {config.training.batch_size} sam" in card
    )
    assert "None was scored." in card
    assert "It was not recorded." in card
    assert "puts a token before every text" in card
    assert "Nothing stands before a text" in model_card(
        read_config(run), store, run, 7, begins=False
    )


def test_lines_that_a_crash_cut_and_losses_that_are_none_are_no_obstacle(run, store):
    lines = [json.dumps(scored(3, 2.5)), json.dumps(scored(7, None)), '{"step": 8, "loss": 1']
    (run / METRICS_FILE).write_text("\n".join(lines))
    config = read_config(run)
    card = model_card(config, store, run, 7, begins=True)
    assert "| ja | nan | nan |\n| all, after 7 steps | nan | nan |" in card
    card = model_card(config, store, run, 4, begins=True)
    assert "| ja | 2.5000 | 2.5000 |\n| all, after 3 steps | 2.5000 | 2.5000 |" in card


def test_a_card_names_what_each_session_ran_on(run, store, monkeypatch):
    (run / METRICS_FILE).write_text(f"{json.dumps(scored(1, 2.5))}\n{json.dumps(scored(2, 2.5))}")
    record_session(run, 0, processes=1, devices=1)
    monkeypatch.setattr("fugaku_jax.run.sessions.processor_name", lambda: "A | B")
    record_session(run, 5, processes=1, devices=1)
    record_session(
        run, 1, processes=1, devices=1
    )  # from an older checkpoint: what came after that is gone
    record_session(run, 6, processes=1, devices=1)
    sessions = json.loads((run / SESSIONS_FILE).read_text())["sessions"]
    assert [each["steps_before"] for each in sessions] == [0, 5, 1, 6]
    card = model_card(read_config(run), store, run, 6, begins=True)
    assert f"| 1 | {sessions[0]['processor']} | 1 | 1 | fp32 |\n" in card
    assert "| 2 | A \\| B | 1 | 1 | fp32 |\n\nThe steps took 1.00 hours in all." in card


def test_a_card_has_the_scores_of_these_weights_and_of_no_others(run, store):
    config = read_config(run)
    assert "## Scores" not in model_card(config, store, run, 7, begins=True)
    known = TaskScore("a|b", "acc", 0.25, 0.043, 100, 0.03, 0.24)
    unknown = TaskScore("a|b", "nats", 2.5, None, 1000)
    save_grading(run, Grading("harness", 7, {}, "", (known, unknown)))
    card = model_card(config, store, run, 7, begins=True)
    assert "| a\\|b | acc | 0.2500 | 0.0430 | 100 | 3.0% | 0.2400 |\n" in card
    assert "| a\\|b | nats | 2.5000 |  | 1,000 | not known |  |\n" in card
    assert "## Scores" not in model_card(config, store, run, 6, begins=True)


@pytest.mark.parametrize(
    ("licences", "expected"),
    [
        (["Apache-2.0", "apache-2.0"], ["license: apache-2.0"]),
        (["GPL-3.0-or-later"], ["license: gpl-3.0"]),
        ([None], ["license: unknown"]),
        (["PSF-2.0"], ["license: other", "license_name: psf-2.0"]),
        (["MIT", None], ["license: other", "license_name: mit-and-unknown"]),
        (["see [/terms]\n---"], ["license: other", "license_name: see-terms"]),
        (["著作権なし"], ["license: unknown"]),
        ([], ["license: unknown"]),
    ],
)
def test_licences_are_said_as_the_hub_reads_them(licences, expected):
    assert licence_metadata(licences) == expected


def test_a_model_that_came_from_elsewhere_has_no_licence_by_its_texts_alone(run, make_store, store):
    (run / "ledger.json").write_text(
        json.dumps({"imported": {"format": "x", "path": "y", "sha256": "z"}, "store_sha256": "s"})
    )
    two = make_store(store.tokenizer(), ("MIT", "CC-BY-4.0"))
    card = model_card(read_config(run), two, run, 7, begins=True)
    assert "\nlicense: other\nlicense_name: cc-by-4.0-and-mit-and-unknown\n" in card
    assert "| CC-BY-4.0, MIT |" in card
