"""`launch/data.py` as a person uses it: build, show, find, and what wrong input gets."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fugaku_jax.data.order import SampleOrder
from fugaku_jax.data.store import Store

ROOT = Path(__file__).parents[2]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Runs the program on 100 columns without colours."""
    environment = {**os.environ, "COLUMNS": "100", "NO_COLOR": "1", "PYTHONPATH": str(ROOT)}
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


def test_find_tells_the_rows_that_hold_the_document(folder: Path):
    store = Store.open(str(folder / "s"))
    sizes = "--sequence-length", 32, "--batch-size", 4, "--steps", 100, "--seed", 5
    found = run("find", folder / "s", "--document", "doc-7", *sizes)
    assert found.returncode == 0, found.stderr
    table = store.documents(0, "train").to_pylist()
    (document,) = [row for row in table if row["id"] == "doc-7"]
    tokens = store.read(0, "train", np.array([document["start"]]), document["length"])[0]
    order = SampleOrder.of_store(store, 32, 4, seed=5)
    lines = re.findall(r"step (\d+) row (\d+) tokens (\d+)-(\d+)", found.stdout)
    assert lines
    for step, row, first, last in np.array(lines, int):
        start = order.locate(int(step))[1][row]
        sample = store.read(0, "train", np.array([start]), 33)[0]
        offset = start + first - document["start"]
        np.testing.assert_array_equal(
            sample[first : last + 1], tokens[offset : offset + last - first + 1]
        )
    assert f"seen in {len(lines)} rows of 100 steps" in found.stdout


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
