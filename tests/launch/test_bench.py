"""`launch/bench.py` says what it lacks; that each benchmark works is in `tests/benchmarks`."""

import importlib.util
import sys
from pathlib import Path

import pytest

LAUNCH = Path(__file__).parents[2] / "launch"


@pytest.mark.parametrize("program", ["step", "generate"])
def test_what_pytorch_is_needed_for_says_so_where_it_is_missing(program, monkeypatch, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "torch" else find(name)
    )
    monkeypatch.syspath_prepend(LAUNCH)
    monkeypatch.setattr(sys, "argv", ["bench.py", program])
    import bench
    from command import run_program

    with pytest.raises(SystemExit) as stop:
        run_program(bench.main)
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("error: torch must be installed")
    assert said.count("\n") == 1
