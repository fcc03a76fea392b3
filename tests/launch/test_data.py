"""`launch/data.py` as a person uses it: build, show, and what wrong input gets."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fugaku_jax.data.store import Store

ROOT = Path(__file__).parents[2]


def run(*arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs the program on 100 columns without colours."""
    environment = {**os.environ, "COLUMNS": "100", "NO_COLOR": "1", "PYTHONPATH": str(ROOT)}
    environment |= variables
    return subprocess.run(
        [sys.executable, str(ROOT / "launch" / "data.py"), *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store of 200 documents and the file that it was built from."""
    folder = tmp_path_factory.mktemp("data")
    rows = [{"text": f"{i} lanterns 川 " * (i % 9 + 3), "id": f"doc-{i}"} for i in range(200)]
    lines = [json.dumps({**row, "licence": "CC0-1.0"}) for row in rows]
    (folder / "tales.jsonl").write_text("\n".join(lines) + "\n")
    built = run("build", "--out", folder / "s", "--tokenizer", "train:294", folder / "tales.jsonl")
    assert built.returncode == 0, built.stderr
    return folder


def test_show_tells_sets_and_licences(folder: Path):
    shown = run("show", folder / "s")
    assert shown.returncode == 0
    tokens = Store.open(str(folder / "s")).sets[0].train.tokens
    assert re.search(rf"tales +text +[\d.]+k +100\.00 % +{tokens:,}", shown.stdout)
    assert re.search(r"CC0-1\.0 +200", shown.stdout)


@pytest.mark.slow
def test_nothing_that_the_data_says_is_read_as_markup_or_ends_a_program(tmp_path: Path):
    odd = "see [/terms] [bold]:smile:"
    path = tmp_path / "a[bold].jsonl"
    rows = [{"text": f"{i} lanterns " * (i % 9 + 3), "licence": odd} for i in range(50)]
    path.write_text("\n".join(map(json.dumps, rows)))
    mixture = tmp_path / "[red]mix.toml"
    mixture.write_text(f"[[input]]\nname = '[/set]川'\ndomain = '[/x]'\npaths = ['{path.name}']")
    store = tmp_path / "s[" / "x]"  # a tag that closes what is not open
    built = run("build", "--out", store, "--tokenizer", "train:293", mixture)
    assert built.returncode == 0, built.stderr
    assert path.name in built.stderr
    assert re.search(rf"{re.escape(odd)} +50", built.stdout)
    # An encoding that lacks a character, as some terminals in Japan still have, shows "?".
    shown = run("show", store, PYTHONUTF8="0", PYTHONIOENCODING="ascii", COLUMNS="400")
    assert shown.returncode == 0, shown.stderr
    title = "".join(shown.stdout.split())  # rich breaks it where it is wider than its table
    assert title.startswith("".join(str(store).split()))
    assert re.search(r"\[/set\]\?\W+\[/x\]", shown.stdout)
    refused = run("show", tmp_path / "川", PYTHONUTF8="0", PYTHONIOENCODING="ascii")
    assert refused.returncode == 2
    assert "there is no token store here" in refused.stderr


def test_a_bad_line_gets_one_sentence_exit_2_and_no_store(folder: Path):
    bad = folder / "bad.jsonl"
    bad.write_text('{"text": "a"}\n{"text": \n')
    result = run("build", "--out", folder / "new", "--tokenizer", "train:294", bad)
    assert result.returncode == 2
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith(f"error: {bad}:2: not valid JSON")
    assert "Traceback" not in result.stderr
    assert not (folder / "new").exists()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("show", "nowhere"), "error: store nowhere: there is no token store here"),
        (("show",), "store"),
        (("build", "--out", "x", "--tokenizer", "gone.model", "gone.jsonl"), r"gone\.jsonl"),
    ],
)
def test_wrong_arguments_exit_with_2(arguments: tuple[str, ...], reason: str):
    result = run(*arguments)
    assert result.returncode == 2
    assert re.search(reason, result.stderr)
    assert "Traceback" not in result.stderr


def test_the_data_room_starts_without_jax():
    code = "import sys, fugaku_jax.data.build, fugaku_jax.data.builtin, fugaku_jax.data.summary"
    subprocess.run(
        [sys.executable, "-c", f"{code}; assert 'jax' not in sys.modules"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
    )
