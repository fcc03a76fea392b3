"""`launch/train.py` as a person meets it: recipes, overrides, exit codes, sentences."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import optax
import pytest

from fugaku_jax.errors import RunError

ROOT = Path(__file__).parents[2]
RECIPES = sorted(path.stem for path in (ROOT / "configs").glob("*.py"))
SMALL = (
    *("--training.steps", "3", "--training.batch-size", "2", "--model.n-layers", "1"),
    *("--model.d-model", "16", "--model.n-heads", "2", "--model.sequence-length", "16"),
    *("--training.validation-tokens", "64", "--training.sample-tokens", "2"),
)


def train(*arguments: object, cwd: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run the program in a process of its own, in a folder that it may fill."""
    return subprocess.run(
        [sys.executable, str(ROOT / "launch" / "train.py"), *map(str, arguments)],
        cwd=cwd,
        env=os.environ | {"JAX_PLATFORMS": "cpu"} | environ,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def refused(monkeypatch, capsys):
    """Run the program's argument reading here; return its one sentence."""
    monkeypatch.syspath_prepend(ROOT / "launch")
    import command
    import train as program

    def run(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["train.py", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            command.run_program(program.main)
        assert stop.value.code == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert error.count("\n") == 1
        return error

    return run


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_describes_itself_and_its_docstring_is_true(recipe, monkeypatch, capsys):
    monkeypatch.syspath_prepend(ROOT / "launch")
    import train as program

    monkeypatch.setattr(sys, "argv", ["train.py", recipe, "--describe"])
    assert program.main() == 0
    described = json.loads(capsys.readouterr().out)
    assert set(described) == {"parameters", "tokens_per_step", "steps", "flops_per_token", "config"}
    module = ast.parse((ROOT / "configs" / f"{recipe}.py").read_text())
    function = next(node for node in module.body if isinstance(node, ast.FunctionDef))
    stated = re.search(r"([\d,]+) parameters", ast.get_docstring(function) or "")
    assert stated
    assert int(stated[1].replace(",", "")) == described["parameters"]
    assert f"{described['parameters']:,}" in (ROOT / "README.md").read_text() or recipe[:3] == "gpt"


def test_fugaku_llm_13b_is_the_original_run(monkeypatch, capsys):
    monkeypatch.syspath_prepend(ROOT / "launch")
    import train as program

    monkeypatch.setattr(sys, "argv", ["train.py", "fugaku_llm_13b", "--describe"])
    program.main()
    described = json.loads(capsys.readouterr().out)
    assert described["parameters"] == 13_167_577_728
    assert described["tokens_per_step"] == 4_128_768
    # 400e9 tokens; the last step of the original was not a whole one.
    assert described["steps"] == 96_881


@pytest.mark.slow
def test_describing_allocates_and_writes_nothing(tmp_path):
    peak = "import resource; print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    command = f"""
import subprocess, sys
subprocess.run([sys.executable, {str(ROOT / "launch" / "train.py")!r}, "fugaku_llm_13b",
                "--describe"], check=True, stdout=subprocess.DEVNULL)
{peak}
"""
    done = subprocess.run(
        [sys.executable, "-c", command], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 1_500_000  # KiB, of the 50 GB that the weights alone would take
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_stopping_exits_75_and_the_same_command_goes_on_to_the_end(tmp_path):
    command = ("tiny", *SMALL, "--run-dir", "run", "--training.stop-after", 2)
    first, second = (train(*command, cwd=tmp_path) for _ in range(2))
    third = train(*command, cwd=tmp_path, PYTHONPROFILEIMPORTTIME="1")
    assert (first.returncode, second.returncode, third.returncode) == (75, 0, 0), first.stderr
    assert "the same command goes on" in first.stdout
    assert "going on after step 2" in second.stdout
    assert "is finished" in third.stdout
    assert "fugaku_jax.training.trainer" in third.stderr
    assert "matplotlib" not in third.stderr  # only a session's end draws
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 3


def test_a_fault_that_was_foreseen_is_one_sentence_with_exit_code_1(monkeypatch, capsys):
    monkeypatch.syspath_prepend(ROOT / "launch")
    import command

    def main():
        raise RunError("The disk is full.")

    with pytest.raises(SystemExit) as stop:
        command.run_program(main)
    assert stop.value.code == 1
    assert capsys.readouterr().err == "error: The disk is full.\n"


def test_a_recipe_may_build_its_optimizer(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(ROOT / "launch")
    import recipes
    import train as program

    from fugaku_jax.training import loop

    page = (ROOT / "docs" / "optimizers.md").read_text()
    (tmp_path / "mine.py").write_text(re.search(r"```python\n(.*?)```", page, re.DOTALL)[1])
    monkeypatch.setattr(recipes, "RECIPES", tmp_path)
    handed = []
    monkeypatch.setattr(loop, "train", lambda *_, optimizer, **_more: handed.append(optimizer) or 0)
    for more in ((), ("--optimizer.kind", "lion")):
        monkeypatch.setattr(sys, "argv", ["train.py", "mine", *more])
        assert program.main() == 0
    built, none = handed
    assert isinstance(built, optax.GradientTransformation)
    assert none is None


def test_an_unknown_recipe_is_answered_with_the_list(refused):
    assert all(recipe in refused("tinny") for recipe in RECIPES)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "The recipe comes first"),
        (("--describe", "tiny"), "The recipe comes first"),
        (("tiny", "--training.stps", "5"), "--training.stps.*perhaps you meant --training.steps"),
        (("tiny", "--training.steps", "many"), "--training.steps: .*'many'"),
        (("tiny", "--training.steps", "-1"), "training.steps is -1, but it must be greater than 0"),
        (("tiny", "--training.precision", "fp8"), "'fp8'.*fp32.*bf16.*fp16"),
        (("tiny", "--optimizer.kind", "lyon"), "'lyon'.*adamw.*lion.*muon.*adafactor.*sgd.*recipe"),
        (("tiny", "--optimizer.kind", "recipe"), "configs/tiny.py defines no `optimizer`"),
        (("tiny", "--model.n-heads", "7"), "model.n_heads is 7, but it must divide model.d_model"),
        (("tiny", "--training.micro-batches", "3"), "training.micro_batches is 3.*divisor of"),
        (("tiny", "--data.store", "nowhere", "--run-dir", "x"), "nowhere.*no token store"),
        (("../secrets",), "is no recipe"),
    ],
)
def test_wrong_input_gets_one_sentence(refused, arguments, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert re.search(sentence, refused(*arguments))
    assert not list(tmp_path.iterdir())
