"""Sums that are started and done with later: XLA computes between, and loops carry them."""

import os
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import pytest
from native_ranks import Ranks

from fugaku_jax.collectives import native
from fugaku_jax.collectives.started import start_all_reduce

pytestmark = pytest.mark.skipif(not native.available(), reason="no native library was built")

PROGRAM = Path(__file__).with_name("started_program.py")


def check(deed):
    """Run a deed of the program on six ranks; it ends in an assertion that fails, or says so."""
    done = subprocess.run(
        [sys.executable, PROGRAM, deed],
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout == "as it should be\n", done.stderr


def test_what_is_started_gives_the_bits_of_a_call_that_waits():
    check("bits")


def test_a_loop_may_start_a_sum_before_it_is_done_with_the_one_before():
    check("loop")


def test_a_rank_that_ends_between_start_and_done_is_named_by_all_others():
    check("die")


def test_what_cannot_start_together_is_refused():
    with Ranks(x=2, y=3) as ranks:
        with pytest.raises(ValueError, match="of one type"):
            start_all_reduce(ranks.links[0], [jnp.ones(2), jnp.ones(2, jnp.int32)], ("x", "y"))
        with pytest.raises(ValueError, match="no axis has more than one device"):
            start_all_reduce(ranks.links[0], [jnp.ones(2)], ("z",))
