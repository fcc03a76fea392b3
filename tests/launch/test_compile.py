"""`launch/compile.py` says what the compiled step of a recipe takes, and who meets whom in it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[2] / "launch" / "compile.py"
SMALL = (
    *("--model.d-model", "24", "--model.n-heads", "6", "--model.sequence-length", "16"),
    *("--model.vocab-size", "250", "--training.batch-size", "4", "--training.micro-batches", "2"),
)


def compile_step(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(PROGRAM), "tiny", *SMALL, *arguments]
    wide = os.environ | {"COLUMNS": "160"}
    return subprocess.run(
        command, env=wide, capture_output=True, text=True, check=False, timeout=300
    )


@pytest.mark.slow
def test_the_figures_of_a_step_name_its_largest_group_and_every_collective_with_its_axes():
    mesh = "--devices", "8", "--mesh.tensor", "2", "--mesh.pipeline", "2"
    done = compile_step(*mesh, "--json")
    assert done.returncode == 0, done.stderr
    (step,) = json.loads(done.stdout).values()
    assert step["devices"] == 8
    rows = step["collectives"]
    # All degrees are two; the loss is summed over stages and replicas together.
    assert step["largest_group"] == max(row["members"] for row in rows) == 4
    assert {len(row["axes"]) for row in rows} <= {1, 2}
    # What is outside of the layers, fp32, is summed over two replicas, then over two stages: half a
    # table of 256 rows, positions, and a norm's scale and bias.
    shared = 4 * 24 * (128 + 16 + 2)
    over = [row["axes"] for row in rows if (row["kind"], row["bytes"]) == ("all-reduce", shared)]
    assert len(over) == 2
    assert all(len(axes) == 1 for axes in over)
    table = compile_step(*mesh)
    assert "largest group" in table.stdout
    assert "all-reduce" in table.stdout


def test_what_does_not_fit_is_refused_in_a_sentence():
    done = compile_step("--devices", "8", "--mesh.tensor", "3")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
