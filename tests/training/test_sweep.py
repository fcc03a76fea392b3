"""Runs drawn at random are equal on their meshes and on one device; and what finds that they are
not works."""

import json
import random
import shlex
import sys

import numpy as np
import pytest
from drawn_runs import command, config_of, draw
from sweep import Outcome, Trier, compare, differences, smallest, sweep

RUNS = 5
SEED = 11


@pytest.mark.slow
def test_runs_drawn_at_random_are_equal_on_their_meshes_and_on_one_device(capsys):
    counts = sweep(SEED, seconds=1800, most=RUNS)
    said = capsys.readouterr().out
    assert counts["equal"] + counts["refused"] == RUNS, said
    assert counts["equal"] >= RUNS / 2, said


def test_a_command_trains_the_run_that_it_shows(monkeypatch, capsys):
    import train as program

    for number in range(3):
        fields = draw(random.Random(number))
        python, launch, *arguments = shlex.split(command(fields))
        assert (python, launch) == ("python", "launch/train.py")
        monkeypatch.setattr(sys, "argv", [launch, *arguments, "--describe"])
        assert program.main() == 0
        assert json.loads(capsys.readouterr().out)["config"] == config_of(fields).to_dict()


def test_a_fault_is_shown_with_as_few_fields_as_have_it():
    def attempt(fields):
        if fields.get("mesh.data", 1) == 1:
            return Outcome("equal", "")
        if "model.tied" not in fields:  # another fault
            return Outcome("raises", "")
        return Outcome("differs" if "mesh.pipeline" in fields else "refused", "")

    fields = draw(random.Random(0)) | {"mesh.data": 2, "model.tied": False, "mesh.pipeline": 2}
    fewest = {"mesh.data", "model.tied", "mesh.pipeline"}
    assert set(smallest(fields, "differs", attempt)) == fewest


ANSWERS = """
import json, os, sys, time
for line in sys.stdin:
    what = json.loads(line)["do"]
    if what == "die":
        print("the compiler fell over", file=sys.stderr, flush=True)
        os.abort()
    if what == "hang":
        time.sleep(60)
    print(json.dumps({"kind": "equal", "said": what}), flush=True)
"""


@pytest.mark.slow
def test_a_run_that_kills_its_process_or_hangs_costs_no_other(tmp_path):
    program = tmp_path / "answers.py"
    program.write_text(ANSWERS)
    with Trier([sys.executable, str(program)], limit_seconds=2) as attempt:
        assert attempt({"do": "first"}) == Outcome("equal", "first")
        died = attempt({"do": "die"})
        assert died.kind == "dies"
        assert "exit code -6" in died.said
        assert "the compiler fell over" in died.said
        assert attempt({"do": "second"}) == Outcome("equal", "second")
        assert attempt({"do": "hang"}).kind == "hangs"
        assert attempt({"do": "third"}) == Outcome("equal", "third")


ONE = {
    "losses": np.array([8.0, 7.0, 6.0]),
    "norms": np.array([1.0, 1.0, 1.0]),
    "slots without a layer": np.zeros(3),
    "mean/kernel": np.full(100, 0.1),
    "mean/scale": np.full(4, 0.001),
}


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize(
    ("name", "factor"),
    [
        ("losses", 1.1),
        ("losses", np.nan),
        ("norms", 1.1),
        ("mean/kernel", 0.5),
        ("mean/kernel", np.nan),
    ],
)
def test_what_is_no_rounding_differs(precision, name, factor):
    assert not differences(ONE, ONE, precision)
    assert name in differences(ONE | {name: ONE[name] * factor}, ONE, precision)


def test_in_fp32_a_single_small_weight_with_half_its_gradient_differs():
    many = ONE | {"mean/scale": ONE["mean/scale"] / 2}
    assert "mean/scale" in differences(many, ONE, "fp32")


def test_a_run_that_does_not_fit_is_refused():
    outcome = compare({"model.n_heads": 3}, {})
    assert outcome.kind == "refused"
    assert "model.n_heads is 3" in outcome.said


def test_a_mesh_may_err_as_much_as_its_precision_does_on_one_device_and_no_more():
    exact = ONE | {"norms": ONE["norms"] * 1.01}
    assert differences(ONE | {"norms": ONE["norms"] * 0.992}, ONE, "fp16")
    assert not differences(ONE | {"norms": ONE["norms"] * 0.992}, ONE, "fp16", exact)
    assert differences(ONE | {"norms": ONE["norms"] * 0.98}, ONE, "fp16", exact)
