"""`launch/bench.py` says what it lacks; that each benchmark works is in `tests/benchmarks`."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

LAUNCH = Path(__file__).parents[2] / "launch"


@pytest.fixture
def bench(monkeypatch):
    """The program's module."""
    monkeypatch.syspath_prepend(LAUNCH)
    import bench

    return bench


def test_figures_come_as_a_table_or_as_json(bench, capsys):
    options = {"sequence_length": 8, "batch_size": 2, "steps": 1}
    bench.load(**options)
    table = capsys.readouterr().out
    assert "contender" in table
    assert "builtin" in table
    bench.load(**options, json=True)
    assert json.loads(capsys.readouterr().out)["tokens"] == 18


@pytest.mark.parametrize("program", ["step", "tuning", "generate"])
def test_what_pytorch_is_needed_for_says_so_where_it_is_missing(
    program, bench, monkeypatch, capsys
):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "torch" else find(name)
    )
    monkeypatch.setattr(sys, "argv", ["bench.py", program])
    from command import run_program

    with pytest.raises(SystemExit) as stop:
        run_program(bench.main)
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("error: torch must be installed")
    assert said.count("\n") == 1
