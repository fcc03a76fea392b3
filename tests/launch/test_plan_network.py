"""`launch/plan.py network`: a table and an object that say what the network model says."""

import importlib
import json
import math
import re
import sys
from pathlib import Path

import pytest

from fugaku_jax.collectives.routes import plan_routes, wires_of
from fugaku_jax.layout.search import assign
from fugaku_jax.tofu.machine import read_machine
from fugaku_jax.tofu.network import collective_seconds

ROOT = Path(__file__).parents[2]
FUGAKU = ROOT / "configs" / "machines" / "fugaku.toml"
ALGORITHMS = ["ring", "snake", "bucket", "halving", "torus"]


@pytest.fixture
def ask(monkeypatch, capsys):
    """Run the program in this process; return what it prints, or its one sentence if it refuses."""
    monkeypatch.syspath_prepend(ROOT / "launch")
    monkeypatch.setenv("COLUMNS", "120")
    command, program = map(importlib.import_module, ("command", "plan"))
    left = []
    monkeypatch.setattr(command, "leave", left.append)

    def run(text: str, code: int | None = None) -> str:
        monkeypatch.setattr(sys, "argv", ["plan.py", "network", *text.split()])
        command.run_program(program.main)
        said = capsys.readouterr()
        assert left.pop() == code, said.err
        if code:
            assert re.fullmatch("error: .*\n", said.err)
        return said.err if code else said.out

    return run


def test_the_table_has_a_row_for_each_algorithm_and_says_that_it_is_modelled(ask):
    printed = ask("--all-reduce 1.29GB --axes x,z --algorithm all")
    rows = [line.strip("│").split("│") for line in printed.splitlines() if line.startswith("│")]
    assert [row[0].strip() for row in rows] == ALGORITHMS
    assert "seconds, modelled" in printed
    assert "groups of 576" in printed
    speeds = [float(row[2]) for row in rows]
    assert speeds[0] == 1
    assert 3.5 < speeds[-1] < 4.2  # four links of a node; and a ring waits for its additions


def test_the_object_holds_what_the_model_gives(ask):
    mesh = "--split x=8x3 --shape 48x6x48 --local 2"
    told = json.loads(ask(f"--reduce-scatter 64MiB --axes x1,z,k {mesh} --json"))
    assert [row["algorithm"] for row in told["algorithms"]] == ALGORITHMS
    assert told["mesh"] == {"x0": 8, "x1": 3, "y": 2, "z": 24, "a": 2, "b": 3, "c": 2, "k": 2}
    assert (told["kind"], told["bytes"], told["group"]) == ("reduce-scatter", 64 * 2**20, 144)
    expected = collective_seconds(
        read_machine(FUGAKU),
        tuple(told["mesh"].items()),
        ("x1", "z", "k"),
        "reduce-scatter",
        64 * 2**20,
        plan_routes((3, 24), wires_of(tuple(told["mesh"].items()), ("x1", "z"))),
    )
    assert told["algorithms"][-1]["modelled"] == vars(expected)


@pytest.mark.parametrize(("machine", "group"), [("cluster", 1024), ("server", 4)])
def test_a_machine_without_a_torus_has_its_nodes_along_x(ask, machine, group):
    told = json.loads(ask(f"--all-reduce 1GB --axes x --machine {machine} --json"))
    assert told["group"] == group
    (ring,) = json.loads(
        ask(f"--all-reduce 1GB --axes x,y --machine {machine} --shape 2x2 --algorithm ring --json")
    )["algorithms"]
    assert ring["modelled"]["seconds"] > 0


def test_the_torus_algorithm_is_three_times_as_fast_as_a_flat_ring_for_288_replicas():
    assigned = assign((24, 2, 24, 2, 3, 2), {"tensor": 6, "data": 288, "pipeline": 8})
    found = tuple((part.name, part.size) for part in assigned.parts)
    # In ours a stage is every third node along x, so that a ring of replicas is one of neighbours.
    ours = ("x0", 8), ("x1", 3), ("y", 2), ("z", 24), ("a", 2), ("b", 3), ("c", 2)
    fugaku = read_machine(FUGAKU)
    for parts, axes in ((found, assigned.axes("data")), (ours, ("x1", "y", "z", "a"))):
        sizes = tuple(dict(parts)[axis] for axis in axes)
        assert math.prod(sizes) == 288
        flat, torus = (
            collective_seconds(fugaku, parts, axes, "all-reduce", 1.29e9, algorithm).seconds
            for algorithm in ("ring", plan_routes(sizes))
        )
        assert flat >= 3 * torus


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--axes x", "give one of --all-reduce SIZE, --reduce-scatter SIZE"),
        ("--axes x --send 3 --all-reduce 3", "give one of --all-reduce SIZE"),
        ("--axes x --send 3x", "size '3x': write it as 1.29GB"),
        ("--axes q --send 3", "axis 'q': the mesh has x, y, z, a, b, c, k"),
        ("--axes x0 --send 3 --split x=5x5", "--split x=5x5: write x=3x8, .*x 24, y 23"),
        ("--axes x --send 3 --shape 30x1x1x1x1x1", "has 30 nodes along x, but the machine has 24"),
        ("--axes x --send 3 --machine cluster --shape 5y", "--shape 5y: write one to six sizes"),
        ("--axes x --send 3 --local 0", "--local is 0, but it must be at least 1"),
        ("--axes x --send 3 --machine fugak", "'fugak' is no machine; there are cluster, fugaku"),
        ("--axes x --send 3 --machine none.toml", "machine file none.toml: cannot be read"),
        ("--axes x --send 3 --algorithm tree", "tree"),
    ],
)
def test_wrong_input_is_a_sentence(ask, arguments, said):
    assert re.search(said, ask(arguments, code=2))
