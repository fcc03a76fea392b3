"""What `docs/shapes.md` says works when it is done, with fewer shapes and steps."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "shapes.md"
FEWER = {"COUNT, END = 20_000": "COUNT, END = 300", "--training.steps 600": "--training.steps 2"}
"""What stands here in place of what the page says."""


def few(text: str) -> str:
    for said, here in FEWER.items():
        assert text.count(said) == 1
        text = text.replace(said, here)
    return text


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder in which all that the page says was done."""
    folder, page = tmp_path_factory.mktemp("shapes"), few(PAGE.read_text(encoding="utf-8"))
    for name in ("launch", "configs"):
        (folder / name).symlink_to(ROOT / name)
    for name, file in re.findall(r"^```(?:python|toml)\n# (\S+)\n(.*?)^```$", page, re.M | re.S):
        (folder / name).write_text(file)
    binaries = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    place = {"PATH": binaries, "XDG_CACHE_HOME": str(folder / "cache"), "MPLBACKEND": "agg"}
    said = []
    for commands in re.findall(r"^```sh\n(.*?)^```$", page, re.M | re.S):
        done = subprocess.run(
            ["bash", "-e", "-c", commands],
            cwd=folder,
            env={**os.environ, **place},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        said.append(done.stdout)
    return folder, said


@pytest.mark.slow
def test_shapes_become_tokens_a_model_and_a_picture_and_are_traced(folder):
    folder, said = folder
    tokens = np.load(folder / "shapes.npy").reshape(-1, 65)
    assert len(tokens) == 300
    assert (tokens[:, -1] == 256).all()
    assert tokens[:, :-1].max() < 256
    lines = [json.loads(line) for line in (folder / "drawn.jsonl").open()]
    assert len(lines) == 12
    for line in lines:
        # An end is not spelled; what is no number is, by SentencePiece's sign for what it lacks.
        spelled = ({256: "", 257: " ⁇ "}.get(each, f"<{each}>") for each in line["tokens"])
        assert line["text"] == "".join(spelled)
    assert (folder / "shapes.png").read_bytes().startswith(b"\x89PNG")
    # The traced document is the shape that was written.
    assert "row 0, set shapes" in said[-1]
    assert re.search(r"shapes\.npy:17\b|set shapes, make_shapes\.py, licence CC0-1\.0", said[-1])


@pytest.mark.slow
def test_what_is_drawn_is_the_shape_that_was_cut_into_tokens(folder):
    folder, _ = folder
    names = {}
    source = (folder / "draw.py").read_text().partition("\n\nwith open")[0]
    exec(source, names)
    written = {}
    maker = (folder / "make_shapes.py").read_text().partition("\nshapes = ")[0]
    exec(maker, written)
    for _ in range(20):
        shape = written["shape"]()
        text = "".join(f"<{token}>" for token in written["tokens"](shape))
        assert np.array_equal(names["voxels"](text), shape)
