"""`launch/generate.py` on a run that has just begun: prompts, files, and wrong input."""

import functools
import gzip
import importlib
import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fugaku_jax.config import Config, DataConfig, ModelConfig, OptimizerConfig, TrainingConfig
from fugaku_jax.data.build import build_store
from fugaku_jax.data.inputs import InputSet
from fugaku_jax.data.tokenizer import train
from fugaku_jax.errors import InputError
from fugaku_jax.inference.engine import Engine
from fugaku_jax.models.layout import make_layout
from fugaku_jax.run.configuration import CONFIG_FILE
from fugaku_jax.training.checkpoint import RunCheckpoints
from fugaku_jax.training.state import init_state

ROOT = Path(__file__).parents[2]
VOCAB = 303


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """A run with untrained weights, saved at step 1."""
    folder = tmp_path_factory.mktemp("generate")
    texts = [f"{i} wet days in {place}\n" for i in range(30) for place in ("May", "Nara", "Kobe")]
    path = folder / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    sets = [InputSet("en", (path,), "en", 1.0)]
    build_store(str(folder / "store"), sets, train(texts, VOCAB), validation=0.2)
    config = Config(
        model=ModelConfig(vocab_size=VOCAB, n_layers=1, d_model=16, n_heads=2, sequence_length=32),
        optimizer=OptimizerConfig(learning_rate=1e-3),
        training=TrainingConfig(steps=1, batch_size=2),
        data=DataConfig(store=str(folder / "store")),
    )
    run = folder / "run"
    run.mkdir()
    (run / CONFIG_FILE).write_text(json.dumps(config.to_dict()))
    with RunCheckpoints(run, config.checkpoint) as checkpoints:
        layout = make_layout(config)
        checkpoints.save(1, layout, init_state(layout), {"config": config.to_dict()})
    return run


@pytest.fixture
def generate(monkeypatch, capsys):
    """Run the program in this process and return what it prints."""
    monkeypatch.syspath_prepend(ROOT / "launch")
    program = importlib.import_module("generate")

    def run(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["generate.py", *map(str, arguments)])
        program.main()
        return capsys.readouterr().out

    return run


def write_lines(path, *lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.mark.slow
def test_prompts_are_printed_with_what_follows(generate, run_dir):
    streamed = generate(run_dir, "3 wet", "--max-tokens", 6, "--seed", 5)
    assert streamed.startswith("3 wet")
    both = generate(run_dir, "3 wet", "Nara", "--max-tokens", 6, "--seed", 5)
    assert both.startswith(streamed + "Nara")
    told = generate(run_dir, "3 wet", "--max-tokens", 6, "--log-probs").splitlines()
    assert told[0] == "3 wet"
    assert 1 <= len(told[1:]) <= 6
    assert all(float(line.split()[0]) < 0 for line in told[1:])


@pytest.mark.slow
def test_int8_weights_are_asked_for_by_a_flag(generate, run_dir, tmp_path):
    arguments = "--max-tokens", 6, "--temperature", 0, "--dtype", "float32"
    plain = generate(run_dir, "3 wet", *arguments, "--log-probs").splitlines()
    small = generate(run_dir, "3 wet", *arguments, "--log-probs", "--weights", "int8").splitlines()
    first, other = (float(lines[1].split()[0]) for lines in (plain, small))
    assert first != other
    assert abs(first - other) < 0.1
    source, out = write_lines(tmp_path / "in.jsonl", {"prompt": "3 wet"}), tmp_path / "out.jsonl"
    generate("batch", run_dir, source, "--out", out, *arguments, "--weights", "int8")
    assert json.loads(out.read_text())["log_probs"][0] == pytest.approx(other, abs=1e-3)


@pytest.mark.slow
def test_a_file_comes_back_line_by_line_with_texts(generate, run_dir, tmp_path):
    lines = [{"prompt": f"{n} wet", "seed": n, "n": [n], "temperature": 1} for n in range(18)]
    lines[3] |= {"max_tokens": 2, "stop": ["\n"], "top_k": 3, "top_p": 0.9}
    source, out = write_lines(tmp_path / "in.jsonl", *lines), tmp_path / "out.jsonl"
    generate("batch", run_dir, source, "--out", out, "--max-tokens", 4)
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(found) == 18
    for line, row in zip(lines, found, strict=True):
        assert line.items() <= row.items()
        assert row["finish"] in ("end", "stop", "length")
        assert len(row["tokens"]) == len(row["log_probs"]) <= line.get("max_tokens", 4)
    # A line alone is continued as it is among others.
    one, alone = write_lines(tmp_path / "one.jsonl", lines[7]), tmp_path / "alone.jsonl"
    generate("batch", run_dir, one, "--out", alone, "--max-tokens", 4)
    alone = json.loads(alone.read_text())
    assert alone.pop("log_probs") == pytest.approx(found[7].pop("log_probs"), abs=1e-5)
    assert alone == found[7]


def test_a_batch_that_was_killed_goes_on_and_takes_no_other_s_answers(
    generate, run_dir, tmp_path, monkeypatch
):
    lines = [{"prompt": f"{n} wet", "seed": n} for n in range(5)]
    source, out = write_lines(tmp_path / "in.jsonl", *lines[:4]), tmp_path / "out.jsonl"
    words = ["batch", run_dir, source, "--out", out, "--max-tokens", 3]
    generate(*words, "--stop", "x")
    whole = out.read_text().splitlines(keepends=True)
    out.write_text("".join(whole[:2]) + whole[2][:9])  # as a kill leaves it
    write_lines(source, *lines)
    asked, answers = [], Engine.answers

    def watched(self, wanted):
        asked[:] = wanted
        return answers(self, asked)

    monkeypatch.setattr(Engine, "answers", watched)
    assert "5 continuations" in generate(*words, "--stop", "x")
    assert len(asked) == 3
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["seed"] for row in found] == [0, 1, 2, 3, 4]
    for row, line in zip(found, whole, strict=False):
        before = json.loads(line)
        assert row.pop("log_probs") == pytest.approx(before.pop("log_probs"), abs=1e-5)
        assert row == before
    with pytest.raises(InputError, match=r"another kind \(differing: stop\)"):
        generate(*words)
    write_lines(source, lines[1])
    with pytest.raises(InputError, match="Line 1 of what --out has is no continuation of prompt 1"):
        generate(*words, "--stop", "x")
    out.unlink()
    assert "1 continuations" in generate(*words)


def test_a_file_of_prompts_is_read_as_corpora_are(generate, run_dir, tmp_path):
    source, out = tmp_path / "in.jsonl.gz", tmp_path / "out.jsonl"
    lines = b'\xef\xbb\xbf{"prompt": "3 wet"}\r\n\r\n{"prompt": "Nara"}\n\n'
    source.write_bytes(gzip.compress(lines))
    generate("batch", run_dir, source, "--out", out, "--max-tokens", 2)
    prompts = [json.loads(line)["prompt"] for line in out.read_text().splitlines()]
    assert prompts == ["3 wet", "Nara"]
    source.write_bytes(gzip.compress(lines + b"[]"))
    with pytest.raises(InputError, match=r"in\.jsonl\.gz, line 5: "):
        generate("batch", run_dir, source, "--out", out)
    source.write_bytes(gzip.compress(lines)[:-6])
    with pytest.raises(InputError, match=r"in\.jsonl\.gz cannot be read: Compressed file ended"):
        generate("batch", run_dir, source, "--out", out)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "this is no JSON"),
        ('["prompt"]', "this is no JSON object"),
        ('{"text": "a"}', 'this has no "prompt"'),
        ('{"prompt": 3}', "prompt is 3, but it must be a string"),
        ('{"prompt": "a", "top_k": 1.5}', "top_k is 1.5, but it must be a whole number"),
        ('{"prompt": "a", "seed": true}', "seed is True, but"),
        ('{"prompt": "a", "stop": "x"}', "stop is 'x', but it must be a list of strings"),
        ('{"prompt": "a", "top_p": 2}', "top_p is 2.0, but it must be greater than 0"),
        ('{"prompt": "\\ud800"}', "half of a surrogate pair"),
        (json.dumps({"prompt": "1" * 40}), "has 41 tokens, but the model has 32 positions"),
        ("[" * 100_000, "this is nested more than 64 levels deep"),
        ('{"prompt": "a", "seed": ' + "1" * 5000 + "}", "a whole number has 5000 digits"),
        ('{"prompt": "a", "max_tokens": 9999999999999999999}', "it must be a whole number"),
        ('{"prompt": "a", "unused": "\\ud800"}', "half of a surrogate pair"),
        (json.dumps({"prompt": "a" * 5_000_000}), "this is longer than 4,000,000 bytes"),
    ],
)
def test_a_wrong_line_is_named_and_nothing_is_written(generate, run_dir, tmp_path, line, message):
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text('{"prompt": "a"}\n' + line + "\n")
    with pytest.raises(InputError, match="line 2: ") as error:
        generate("batch", run_dir, source, "--out", out)
    assert message in str(error.value)
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "a"], "nowhere is no directory"),
        (["RUN"], "Give prompts, or `batch`"),
        (["batch", "RUN", "x"], "--out"),
        (["batch", "RUN", "absent", "--out", "y"], "absent cannot be read: No such file"),
        (["batch", "RUN", "x", "--out", "y", "--slots", "0"], "slots is 0, but it must be"),
        (["batch", "RUN", "x", "--out", "y", "--top-p", "2"], "top_p is 2.0, but it must be"),
        (["batch", "RUN", "x", "--out", "y", "--mesh.data", "2"], "shared by --mesh.tensor alone"),
        (["RUN", "a", "--temperature", "-1"], "temperature is -1.0, but it must be at least 0"),
        (["RUN", "a", "--weights", "int4"], "--weights"),
        (["RUN", "a", "--mesh.pipeline", "2"], "shared by --mesh.tensor alone"),
        (["RUN", "a", "--mesh.data", "2"], "shared by --mesh.tensor alone"),
        (["RUN", "a", "--mesh.tensor", "3"], "mesh.tensor"),
        (["RUN", "1" * 40], "has 41 tokens, but the model has 32 positions"),
    ],
)
def test_wrong_arguments_are_one_sentence(generate, run_dir, arguments, message):
    given = [run_dir if argument == "RUN" else argument for argument in arguments]
    with pytest.raises(InputError) as error:
        generate(*given)
    assert message in str(error.value)


@pytest.mark.slow
def test_shared_by_emulated_devices_it_says_the_same(generate, run_dir):
    wanted = generate(run_dir, "3 wet", "--max-tokens", 8, "--dtype", "float32")
    arguments = ["--max-tokens", "8", "--dtype", "float32"]
    arguments += ["--emulate-devices", "2", "--mesh.tensor", "2"]
    done = subprocess.run(
        [sys.executable, ROOT / "launch" / "generate.py", run_dir, "3 wet", *arguments],
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == wanted


def typed(words: str) -> list[str]:
    """Return the arguments that bash makes of what is typed."""
    command = ["bash", "-c", f"printf '%s\\0' {words}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\0")[
        :-1
    ]


def test_what_the_documentation_says_works_when_typed(generate, monkeypatch):
    """Each command as it stands there, and the options of its table all at once."""
    said = []
    program = importlib.import_module("generate")

    def listening(function):
        @functools.wraps(function)
        def listen(*arguments: object, **options: object) -> None:
            said.append(inspect.signature(function).bind(*arguments, **options).arguments)

        return listen

    for name in ("generate", "batch"):
        monkeypatch.setattr(program, name, listening(getattr(program, name)))
    page = (ROOT / "docs" / "generation.md").read_text()
    commands = re.findall(r"^python launch/generate\.py (.*)$", page + program.__doc__, re.M)
    assert len(commands) >= 6
    for command in commands:
        generate(*typed(command))
    rows = re.findall(r"^\| (`--.*?) \|", page, re.M)
    options = [each for row in rows for each in re.findall("`(--[^`]* [^`]*)`", row)]
    assert len(options) >= 8
    batched = [each for each in options if not each.startswith("--log-probs")]
    generate("batch", "RUN", "IN", "--out", "OUT", *typed(" ".join(batched)))
    assert said[-1]["options"].stop == ("\n###",)
    generate("RUN", "one", *typed(" ".join(options)))
    assert said[-1]["stop"] == ("\n###",)
    assert said[-1]["max_tokens"] == 256


@pytest.mark.slow
def test_heads_that_cannot_be_shared_are_wrong_input_and_exit_code_2(run_dir):
    command = [sys.executable, ROOT / "launch" / "generate.py", run_dir, "a"]
    done = subprocess.run(
        [*command, "--emulate-devices", "4", "--mesh.tensor", "4"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: model.n_heads is 2, but it must be a multiple of the 4")
    assert done.stderr.count("\n") == 1
