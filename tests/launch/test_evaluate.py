"""`launch/evaluate.py` on a run that has just begun: the table, the JSON, and wrong input."""

import importlib
import json
import sys
from pathlib import Path

import pytest
from graded_runs import TEXTS, graded_run

from fugaku_jax.errors import InputError
from fugaku_jax.run.scores import read_gradings

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
    # Data is no markup, whatever it looks like.
    domains = {each: [each + text for text in TEXTS] for each in ("en", "[/math]")}
    return graded_run(folder, 16, domains)


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
    (kept,) = read_gradings(run_dir)
    assert (kept.program, kept.step, kept.asked) == ("perplexity", 1, {"max_tokens": None})
    values = {(each.task, each.metric): each.value for each in kept.scores}
    assert len(values) == 6
    assert values["held-out total", "bits a byte"] == figures["total"]["bits_per_byte"]


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
