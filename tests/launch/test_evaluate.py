"""`launch/evaluate.py` on a run that has just begun: the table, the JSON, and wrong input."""

import importlib
import json
import sys
from pathlib import Path

import pytest

from fugaku_jax.config import Config, DataConfig, ModelConfig, OptimizerConfig, TrainingConfig
from fugaku_jax.data.build import build_store
from fugaku_jax.data.inputs import InputSet
from fugaku_jax.data.tokenizer import train
from fugaku_jax.errors import InputError
from fugaku_jax.models.layout import make_layout
from fugaku_jax.run.configuration import CONFIG_FILE
from fugaku_jax.training.checkpoint import RunCheckpoints
from fugaku_jax.training.state import init_state

ROOT = Path(__file__).parents[2]
VOCAB = 303


@pytest.fixture
def evaluate(monkeypatch, capsys):
    """Run the program in this process and return what it prints."""
    monkeypatch.syspath_prepend(ROOT / "launch")
    monkeypatch.setenv("COLUMNS", "120")
    program = importlib.import_module("evaluate")

    def run(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["evaluate.py", "perplexity", *map(str, arguments)])
        program.main()
        return capsys.readouterr().out

    return run


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """A run with untrained weights, saved at step 1, and its store of two domains."""
    folder = tmp_path_factory.mktemp("evaluate")
    texts = [f"{i} wet days in {place}\n" for i in range(30) for place in ("May", "Nara", "Kobe")]
    sets = []
    for domain in ("en", "[/math]"):  # data is no markup, whatever it looks like
        path = folder / f"{len(sets)}.jsonl"
        path.write_text("".join(json.dumps({"text": domain + text}) + "\n" for text in texts))
        sets.append(InputSet(domain, (path,), domain, 1.0))
    store = folder / "store"
    build_store(str(store), sets, train(texts, VOCAB), validation=0.2)
    config = Config(
        model=ModelConfig(vocab_size=VOCAB, n_layers=1, d_model=16, n_heads=2, sequence_length=16),
        optimizer=OptimizerConfig(learning_rate=1e-3),
        training=TrainingConfig(steps=1, batch_size=2),
        data=DataConfig(store=str(store)),
    )
    run = folder / "run"
    run.mkdir()
    (run / CONFIG_FILE).write_text(json.dumps(config.to_dict()))
    with RunCheckpoints(run, config.checkpoint) as checkpoints:
        layout = make_layout(config)
        checkpoints.save(1, layout, init_state(layout), {"config": config.to_dict()})
    return run


@pytest.mark.slow
def test_json_has_all_figures_of_every_domain_and_the_total(evaluate, run_dir):
    figures = json.loads(evaluate(run_dir, "--json"))
    assert set(figures["domains"]) == {"en", "[/math]"}
    for name in ("tokens", "bytes", "nats", "xz_bytes"):
        parts = [score[name] for score in figures["domains"].values()]
        assert figures["total"][name] == pytest.approx(sum(parts))
    for score in figures["domains"].values():
        assert score["bits_per_byte"] > 0
        assert score["xz_bits_per_byte"] == 8 * score["xz_bytes"] / score["bytes"]


def test_the_table_marks_the_better_of_model_and_xz(evaluate, run_dir):
    rows = [line for line in evaluate(run_dir).splitlines() if "│" in line]
    assert [row.split()[1] for row in rows] == ["en", "[/math]", "total"]
    assert all(row.count("*") == 1 for row in rows)


def test_with_a_limit_xz_is_not_compared(evaluate, run_dir):
    table = evaluate(run_dir, "--max-tokens", 40)
    assert table.count("not all read") == 3
    assert "*" not in table


def test_a_limit_below_1_is_wrong_input(evaluate, run_dir):
    with pytest.raises(InputError, match="--max-tokens is 0, but it must be greater than 0"):
        evaluate(run_dir, "--max-tokens", 0)


def test_a_directory_that_is_no_run_gets_one_sentence_and_exit_code_2(evaluate, capsys):
    from command import run_program

    with pytest.raises(SystemExit) as stop:
        run_program(lambda: evaluate("nowhere"))
    assert stop.value.code == 2
    out, err = capsys.readouterr()
    assert err.startswith("error: nowhere is no run")
    assert err.count("\n") == 1
    assert out == ""
