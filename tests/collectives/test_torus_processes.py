"""Our own collectives between real processes, called by XLA: equal to its own; they never hang."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fugaku_jax.collectives import native

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not native.available(), reason="no native library was built"),
]

PROGRAM = Path(__file__).with_name("torus_program.py")
LOCAL = Path(__file__).parents[2] / "launch" / "cluster" / "local.py"


def run(*arguments):
    return subprocess.run(
        [sys.executable, LOCAL, "-n", "4", "--", sys.executable, PROGRAM, *map(str, arguments)],
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_random_calls_equal_those_of_xla_and_are_the_same_to_the_last_bit():
    done = run("rounds", 20)
    assert done.returncode == 0, done.stderr
    assert "equal 20\n" in done.stdout


def test_a_late_rank_is_waited_for():
    done = run("late")
    assert done.returncode == 0, done.stderr
    assert "sum 4.0\n" in done.stdout


def test_a_rank_that_dies_is_named_with_its_place_by_who_waits_for_it():
    done = run("die")
    assert done.returncode != 0
    # In the middle of the sum or before the others began theirs: that is a race.
    named = r"rank 2 \(x1 y0\) (ended in the middle of a sum|has ended, and a sum needs it)"
    assert re.search(named, done.stderr)


def test_a_rank_with_another_length_is_an_error_that_names_both():
    done = run("differ")
    assert done.returncode != 0
    assert "rank 2 (x1 y0)" in done.stderr
    assert "an all-reduce of 1000 float32" in done.stderr
    assert "an all-reduce of 2000 float32" in done.stderr
