"""`launch/evaluate.py harness` beside the harness's own `hf` model on the exported weights."""

import functools
import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from graded_runs import TEXTS, graded_run

from fugaku_jax.data.tokenizer import Tokenizer
from fugaku_jax.errors import InputError
from fugaku_jax.inference.continuation import Continuation, Options
from fugaku_jax.interop.hf import export_run
from fugaku_jax.run.scores import read_gradings

ROOT = Path(__file__).parents[2]
POSITIONS, ITEMS = 64, 8
FIXED = {"dataset_path": "json", "test_split": "test", "dataset_kwargs": {}}
MEAN = {"aggregation": "mean", "higher_is_better": True}
TASKS = {
    "choice": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}} ",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "label",
        "metric_list": [{"metric": "acc", **MEAN}, {"metric": "acc_norm", **MEAN}],
    },
    "goes_on": {
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": ["e"], "do_sample": False, "max_gen_toks": 6},
        "metric_list": [{"metric": "exact_match", **MEAN}],
    },
    "rolls": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": "bits_per_byte"}],
    },
}


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A run whose weights are large enough to prefer something, its export, and three tasks."""
    folder = tmp_path_factory.mktemp("harness")
    graded_run(folder, POSITIONS, init_std=0.7)
    export_run(folder / "run", folder / "hf", None, "float32", 1 << 30)
    (folder / "tasks").mkdir()
    items = [
        {
            "question": f"{number} wet days{'x' * (3 * number if number % 2 else 70)}",
            "choices": [" in May", " Kobe", f"{number}", " wet wet"],
            "label": number % 4,
            "answer": "in",
            "text": f"{number} wet days in May, " * (number + 1),
        }
        for number in range(ITEMS)
    ]
    (folder / "data.jsonl").write_text("".join(json.dumps(each) + "\n" for each in items))
    for name, task in TASKS.items():
        whole = {"task": f"{name}_here"} | FIXED | task
        whole["dataset_kwargs"] = {"data_files": {"test": "data.jsonl"}}
        (folder / "tasks" / f"{name}.yaml").write_text(json.dumps(whole))  # JSON is YAML
    return folder


@pytest.fixture
def program(monkeypatch, given):
    monkeypatch.syspath_prepend(ROOT / "launch")
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("XDG_CACHE_HOME", str(given / "cache"))
    return importlib.import_module("evaluate")


@pytest.fixture
def harness(monkeypatch, capsys, program, given):
    """Run the program in this process and return what it prints."""

    def run(*arguments: object) -> str:
        words = ["evaluate.py", "harness", given / "run", *arguments]
        monkeypatch.setattr(sys, "argv", [str(each) for each in words])
        program.main()
        return capsys.readouterr().out

    return run


@pytest.mark.slow
def test_every_request_gets_what_the_harness_s_hf_model_gives(harness, given, monkeypatch):
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    from fugaku_jax.evaluation.harness_model import HarnessModel
    from fugaku_jax.evaluation.harness_tasks import tasks_of
    from fugaku_jax.interop.load import load_for_inference

    loaded = load_for_inference(given / "run", "float32")
    ours = HarnessModel(loaded.model, loaded.tokenizer, loaded.first_token, "float32")
    theirs = HFLM(str(given / "hf"), device="cpu", dtype="float32", batch_size=4)
    # Of bytes that are no text, transformers makes other signs than SentencePiece.
    decode = functools.partial(said_by, loaded.tokenizer, theirs.tok_decode)
    monkeypatch.setattr(theirs, "tok_decode", decode)
    found = [
        lm_eval.simple_evaluate(
            model,
            tasks=tasks_of(str(given / "tasks"), given),
            task_manager=TaskManager(include_defaults=False),
            bootstrap_iters=0,
        )
        for model in (ours, theirs)
    ]
    for name in TASKS:
        samples = [each["samples"][f"{name}_here"] for each in found]
        assert len(samples[0]) == ITEMS
        for mine, other in zip(*samples, strict=True):
            if name == "goes_on":
                assert mine["resps"] == other["resps"]
                continue
            said = [[first for (first, *_) in flat(each["resps"])] for each in (mine, other)]
            # fp32 sums of some hundred tokens in another order.
            assert said[0] == pytest.approx(said[1], abs=1e-3)
            if name == "choice":
                best = [[greedy for _, greedy in flat(each["resps"])] for each in (mine, other)]
                assert best[0] == best[1]
    results = [each["results"] for each in found]
    assert results[0]["choice_here"]["acc,none"] == results[1]["choice_here"]["acc,none"]
    printed = json.loads(harness("--tasks", given / "tasks", "--data", given, "--json"))["results"]
    for name, metric in (("choice", "acc"), ("goes_on", "exact_match"), ("rolls", "bits_per_byte")):
        value = results[1][f"{name}_here"][f"{metric},none"]
        assert printed[f"{name}_here"][f"{metric},none"] == pytest.approx(value, abs=1e-5)
    assert printed["choice_here"]["acc_stderr,none"] > 0
    table = harness("--tasks", given / "tasks" / "choice.yaml", "--data", given, "--limit", 5)
    assert "choice_here" in table
    assert "│     5 │" in table
    assert "0.0%" in table
    (saved,) = [each for each in read_gradings(given / "run") if "choice" in each.scores[0].task]
    assert (saved.program, saved.step, saved.asked["limit"]) == ("harness", 1, 5)
    assert {each.metric: each.items for each in saved.scores} == {"acc": 5, "acc_norm": 5}
    assert len(read_gradings(given / "run")) == len(TASKS)


@pytest.mark.usefixtures("program")
def test_what_is_not_known_of_contamination_is_said(given, tmp_path):
    learned_from = importlib.import_module("learned_from")
    nothing = learned_from.LearnedFrom()
    knows, said = learned_from.knowledge_of(given / "hf", nothing)
    assert knows is None
    assert said.endswith("a model directory does not say what it has read.")
    importlib.import_module("scores").keep(given / "hf", "harness", {}, said, [])
    assert not (given / "hf" / "scores").exists()
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "ledger.json").write_text(json.dumps({"imported": {"sha256": "z"}}))
    knows, said = learned_from.knowledge_of(tmp_path, nothing)
    assert knows is None
    assert said.endswith("the run was imported and has read no store.")
    knows, said = learned_from.knowledge_of(given / "run", nothing)
    assert knows(TEXTS[40] + TEXTS[41] + TEXTS[42]) is False  # each is a document
    assert said == "Contaminated is what stands in the run's store."
    with pytest.raises(InputError, match="there is no index here"):
        learned_from.knowledge_of(given / "run", learned_from.LearnedFrom(index=tmp_path))


@pytest.mark.slow
@pytest.mark.usefixtures("program")
def test_the_benchmark_tells_how_far_apart_both_models_are(monkeypatch, capsys, given):
    bench = importlib.import_module("bench")
    files = [given / "tasks" / f"{name}.yaml" for name in ("choice", "goes_on")]
    words = ["bench.py", "grading", given / "run", "--tasks", *files]
    words += ["--data", given, "--limit", 3, "--rounds", 1, "--alone", "--json"]
    monkeypatch.setattr(sys, "argv", [str(each) for each in words])
    bench.main()
    row, texts = json.loads(capsys.readouterr().out)["tasks"]
    assert (row["contender"], row["items"], row["texts_differing"]) == ("choice_here", 3, 0)
    assert row["figures_ours"] == row["figures_theirs"] != {}
    assert row["figures_apart"] == 0
    assert 0 < row["nats_apart"] < 1e-3
    assert row["ratio"] == row["theirs_seconds"] / row["ours_seconds"]
    assert (texts["contender"], texts["alone_differing"]) == ("goes_on_here", 0)
    assert texts["alone_ratio"] == texts["alone_seconds"] / texts["ours_seconds"]


def said_by(tokenizer: Tokenizer, decode: Callable, tokens: int | list[int], **how: bool) -> str:
    """What tokens say up to one that ends texts, as a continuation has it; one alone as it was."""
    if isinstance(tokens, int):
        return decode(tokens, **how)
    row = Continuation(tokenizer, [tokenizer.end_of_document], Options(len(tokens) + 1))
    row.add(tokens, [0.0] * len(tokens))
    row.add([], [])
    return row.text


def flat(resps: list) -> list:
    """The answers to an item's requests, each a pair; a rolling one is a number alone."""
    return [each[0] if isinstance(each[0], list | tuple) else (each[0],) for each in resps]


@pytest.mark.parametrize(
    ("lacks", "message"),
    [("doc_to_text", "lacks the field doc_to_text"), ("task", "lacks the field task")],
)
def test_a_task_without_a_field_is_one_sentence(harness, given, tmp_path, lacks, message):
    task = json.loads((given / "tasks" / "choice.yaml").read_text())
    del task[lacks]
    (tmp_path / "task.yaml").write_text(json.dumps(task))
    with pytest.raises(InputError, match=message):
        harness("--tasks", tmp_path, "--data", given)


@pytest.mark.slow
def test_wrong_arguments_are_one_sentence(harness, given, tmp_path):
    with pytest.raises(InputError, match=r"data\.jsonl; --data DIR says where"):
        harness("--tasks", given / "tasks")
    with pytest.raises(InputError, match="has no task files"):
        harness("--tasks", tmp_path)
    with pytest.raises(InputError, match="is no file, directory, or task that the harness knows"):
        harness("--tasks", "no_such_task")
    with pytest.raises(InputError, match="--limit is 0"):
        harness("--tasks", "arc_easy", "--limit", 0)
