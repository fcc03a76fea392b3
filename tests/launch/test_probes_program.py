"""`launch/evaluate.py probes` on a small run: its gaps are those of its own likelihoods."""

import importlib
import json
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from graded_runs import graded_run

from fugaku_jax.errors import InputError
from fugaku_jax.interop.load import load_for_inference
from fugaku_jax.run.scores import read_gradings

ROOT = Path(__file__).parents[2]
TEMPLATE = "{%- for each in messages -%}Q:{{ each['content'] }}\nA:{%- endfor -%}"


@pytest.fixture
def probes(monkeypatch, capsys):
    """Run the program in this process and return what it prints."""
    monkeypatch.syspath_prepend(ROOT / "launch")
    monkeypatch.setenv("COLUMNS", "160")
    program = importlib.import_module("evaluate")

    def run(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["evaluate.py", "probes", *map(str, arguments)])
        program.main()
        return capsys.readouterr().out

    return run


@pytest.mark.slow
def test_gaps_are_those_of_sums_in_numpy_and_the_run_keeps_the_scores(probes, tmp_path):
    run = graded_run(tmp_path, 128, init_std=0.5)
    (tmp_path / "chat.jinja").write_text(TEMPLATE)
    arguments = run, "--chat-template", tmp_path / "chat.jinja", "--max-tokens", 4
    found = json.loads(probes(*arguments, "--json"))
    loaded = load_for_inference(run, "float32")

    def log_probability(text: str) -> float:
        tokens = loaded.tokenizer.encode(text)
        row = jnp.array([[loaded.tokenizer.end_of_document, *tokens]], jnp.int32)
        logits = np.asarray(loaded.model.logits(loaded.model(row[:, :-1])), np.float64)[0]
        logits -= np.log(np.exp(logits).sum(1, keepdims=True))
        return logits[np.arange(len(tokens)), tokens].sum()

    first = found["pairs"][0]
    assert first["text"] == "彼女は病院で看護師として働いています。"
    other = first["text"].replace("彼女", "彼")
    gap = log_probability(first["text"]) - log_probability("彼女")
    gap -= log_probability(other) - log_probability("彼")
    assert first["gap"] == pytest.approx(gap, abs=1e-3)
    assert len(found["pairs"]) == 36
    assert all(each["answer"] for each in found["requests"])
    (kept,) = read_gradings(run)
    assert (kept.program, kept.step) == ("probes", 1)
    assert [each.value for each in kept.scores] == [each["value"] for each in found["scores"]]
    assert "stereotypes en gender" in probes(*arguments)


def test_wrong_arguments_are_one_sentence(probes, tmp_path):
    with pytest.raises(InputError, match=r"stereotypes\.jsonl cannot be read"):
        probes(tmp_path, "--templates", tmp_path)
    with pytest.raises(InputError, match=r"shared by --mesh\.data and --mesh\.tensor alone"):
        probes(tmp_path, "--mesh.pipeline", 2)
