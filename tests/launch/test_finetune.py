"""launch/finetune.py: from a trained run and a file of dialogues to a run that answers."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fugaku_jax.run.metrics import read_metrics

pytestmark = pytest.mark.slow
LAUNCH = Path(__file__).parents[2] / "launch"
APART = Path(__file__).parents[1] / "training" / "train_apart.py"
SMALL = ["--model.n-layers", "1", "--model.d-model", "32", "--model.n-heads", "2"]
SHORT = ["--training.batch-size", "4", "--training.sample-tokens", "4"]


def call(program: str, *arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run a program of launch/."""
    command = [sys.executable, str(LAUNCH / f"{program}.py"), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == code, done.stderr
    return done


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """A run of one step."""
    run = tmp_path_factory.mktemp("base") / "run"
    call("train", "tiny", *SMALL, *SHORT, "--training.steps", 1, "--run-dir", run)
    return run


@pytest.fixture(scope="module")
def dialogues(tmp_path_factory) -> Path:
    """A file of 40 short dialogues."""
    path = tmp_path_factory.mktemp("talk") / "talk.jsonl"
    with path.open("w") as file:
        for number in range(40):
            row = {"prompt": f"{number}は?", "completion": "はい。" * (1 + number % 3)}
            file.write(json.dumps(row) + "\n")
    return path


def losses(run: Path) -> list[float]:
    """The losses of a run's steps."""
    return [line["loss"] for line in read_metrics(run)]


def test_a_tuned_run_goes_on_exactly_is_exported_and_traced(base, dialogues, tmp_path):
    given = ["tiny", "--from", base, "--data", dialogues, *SHORT, "--training.steps", 4]
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    said = call("finetune", *given, "--validation", 0.2, "--run-dir", whole).stdout
    assert "trained on" in said
    assert "validation loss" in said
    parted_args = [*given, "--validation", 0.2, "--run-dir", parted]
    call("finetune", *parted_args, "--training.stop-after", 2, code=75)
    call("finetune", *parted_args)
    assert len(losses(whole)) == 4
    assert losses(parted) == losses(whole)
    # What it makes of held-out dialogues is asked of it, and of what it began with.
    asked = ["--of", whole, "--limit", 2, "--max-tokens", 4]
    found = json.loads(call("evaluate", "answers", whole, *asked, "--json").stdout)
    assert found["nats_per_token"] == pytest.approx(read_metrics(whole)[-1]["validation_loss"])
    assert found["answered"] == 2
    assert "ended by itself" in call("evaluate", "answers", base, *asked).stdout
    done = call("evaluate", "answers", whole, "--of", base, code=2)
    assert "was not tuned on dialogues" in done.stderr
    # Two runs that learned alike have the mean that they are.
    call("convert", "average", whole, parted, "--out", tmp_path / "mean")
    mean = json.loads(call("evaluate", "answers", tmp_path / "mean", *asked, "--json").stdout)
    assert mean["nats_per_token"] == pytest.approx(found["nats_per_token"], rel=1e-6)
    assert "two models or more" in call("convert", "average", whole, "--out", "none", code=2).stderr
    # All else of a run is as of any other: its rows lead to dialogues, its ledger to the base.
    step = json.loads(call("trace", whole, "step", 1, "--json").stdout.splitlines()[-1])
    names = {span["document"] for row in step["rows"] for span in row["spans"]}
    assert names
    assert all(name.startswith("talk.jsonl:") for name in names)
    ledger = json.loads((whole / "ledger.json").read_text())
    assert ledger["imported"]["path"] == str(base)
    assert ledger["imported"]["ledger"]["store_sha256"]
    call("convert", "to-hf", whole, tmp_path / "hf")
    written = json.loads((tmp_path / "hf" / "tokenizer_config.json").read_text())
    assert "tuned on dialogues" in (tmp_path / "hf" / "README.md").read_text()
    assert written["chat_template"] == (whole / "tuning" / "chat_template.jinja").read_text()
    call("finetune", "tiny", "--from", tmp_path / "hf", *given[3:], "--run-dir", tmp_path / "again")
    answer = call("generate", whole, "1は?", "--max-tokens", 4)
    assert answer.stdout


def test_wrong_input_is_a_sentence(base, dialogues, tmp_path):
    given = ["tiny", "--data", dialogues, *SHORT, "--training.steps", 1]
    run = tmp_path / "run"
    for arguments, says in (
        (["--from", tmp_path / "none", *given[1:]], "is no run"),
        (["--from", base, "--data", tmp_path / "none.jsonl"], "none.jsonl: cannot be read"),
        (["--from", base, *given[1:], "--data.learn", "all"], "data.learn is all"),
    ):
        done = call("finetune", "tiny", *arguments, "--run-dir", run, code=2)
        assert says in done.stderr, done.stderr
        assert done.stderr.count("\n") == 1
    call("finetune", *given, "--from", base, "--run-dir", run)
    other = tmp_path / "other.jsonl"
    other.write_text(json.dumps({"prompt": "x", "completion": "y"}))
    done = call("finetune", "tiny", "--from", base, "--data", other, "--run-dir", run, code=2)
    assert "was tuned on other dialogues" in done.stderr


@pytest.mark.parametrize("method", ["dpo", "lora-dpo"])
def test_dpo_goes_on_exactly_with_the_reference_that_it_has_kept(base, tmp_path, method):
    pairs = tmp_path / "pairs.jsonl"
    with pairs.open("w") as file:
        for number in range(40):
            row = {"prompt": f"{number}は?", "chosen": "はい。", "rejected": "いいえ。" * 2}
            file.write(json.dumps(row) + "\n")
    given = ["tiny", "--from", base, "--data", pairs, *SHORT, "--training.steps", 4]
    given += ["--tuning.method", method, "--tuning.beta", 0.5, "--optimizer.warmup-tokens", 0]
    given += ["--tuning.rank", 4, "--validation", 0.2, "--training.validate-every", 2]
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    said = call("finetune", *given, "--run-dir", whole).stdout
    assert "nats/pair, 100.0% of pairs told apart rightly" in said
    call("finetune", *given, "--run-dir", parted, "--training.stop-after", 2, code=75)
    call("finetune", *given, "--run-dir", parted)
    assert losses(parted) == losses(whole)
    for name in ("reference.npy", "reference_held_out.npy"):
        kept = [(each / "tuning" / name).read_bytes() for each in (whole, parted)]
        assert kept[0] == kept[1]
    validated = [line for line in read_metrics(whole) if "validation_loss" in line]
    assert [line["step"] for line in validated] == [2, 4]
    assert math.log(2) > validated[0]["validation_loss"] > validated[1]["validation_loss"]
    assert validated[1]["validation_margin"] > 0
    first, *_, last = read_metrics(whole)
    if method == "dpo":  # two processes each write what they have of it, and validate together
        apart = ["cluster/local", "-n", 2, "--", APART, "finetune.py", *given, "--mesh.data", 2]
        call(*apart, "--run-dir", tmp_path / "two")
        two = np.load(tmp_path / "two" / "tuning" / "reference.npy")
        one = np.load(whole / "tuning" / "reference.npy")
        np.testing.assert_allclose(two, one, atol=1e-5)
        at_end = [read_metrics(each)[-1]["validation_loss"] for each in (whole, tmp_path / "two")]
        assert at_end[0] == pytest.approx(at_end[1], abs=1e-4)
    # At first the model is its own reference: margins are rounding, and the loss is that of a coin.
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-4)
    assert abs(first["margin"]) < 1e-4
    assert last["accuracy"] == 1
    assert last["margin"] > 0.1
    assert last["loss"] < first["loss"]
    if method == "lora-dpo":
        call("convert", "to-peft", whole, tmp_path / "adapter")
    call("convert", "to-hf", whole, tmp_path / "hf")
    one, other = (
        call("generate", path, "1は?", "--max-tokens", 8, "--temperature", 0).stdout
        for path in (whole, tmp_path / "hf")
    )
    assert one == other
    # With nothing held out nothing is said of it, nor can a run end by it.
    given[given.index("--validation") + 1] = 0
    said = call("finetune", *given, "--run-dir", tmp_path / "none").stdout
    assert "validation" not in said
    assert "nan" not in said
    early = [*given, "--training.patience", 2, "--run-dir", tmp_path / "early"]
    assert "holds nothing out" in call("finetune", *early, code=2).stderr
    bad = tmp_path / "bad.jsonl"
    bad.write_text(json.dumps({"prompt": "x", "completion": "y"}))
    given[4] = bad
    done = call("finetune", *given, "--run-dir", tmp_path / "new", code=2)
    assert "holds no pair: there is no `chosen`" in done.stderr


def test_lora_is_tuned_exported_and_spoken_to(base, dialogues, tmp_path):
    run, given = tmp_path / "lora", ["--tuning.method", "lora", "--tuning.rank", 4]
    given += ["--tuning.targets", "c_attn", "c_fc"]
    args = ["tiny", "--from", base, "--data", dialogues, *SHORT, *given, "--run-dir", run]
    said = call("finetune", *args, "--training.steps", 2).stdout
    assert "LoRA of rank 4: " in said
    written = call("convert", "to-peft", run, tmp_path / "adapter").stdout
    assert "adapter_config.json, adapter_model.safetensors" in written
    call("convert", "to-hf", run, tmp_path / "hf")
    one, other = (
        call("generate", path, "1は?", "--max-tokens", 8, "--temperature", 0).stdout
        for path in (run, tmp_path / "hf")
    )
    assert one == other
    done = call("train", "tiny", *SMALL, *given, "--run-dir", tmp_path / "new", code=2)
    assert "needs a trained model" in done.stderr
    done = call("convert", "to-peft", base, tmp_path / "none", code=2)
    assert "has no adapters" in done.stderr
