"""A process that computes wrongly is named before the first step; one that is slow, too."""

import re
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fugaku_jax.cluster.outliers import slow_ones
from fugaku_jax.cluster.rank_names import RankNames
from fugaku_jax.training import self_test
from fugaku_jax.training.probe import Probe, multiply

HERE = Path(__file__).parent
LOCAL = HERE.parents[1] / "launch" / "cluster" / "local.py"


def test_the_kernels_product_of_whole_numbers_is_exact_and_one_wrong_entry_is_seen():
    probe = Probe(96)
    assert probe.wrong() == 0
    assert probe.seconds(0.0) > 0
    assert Probe(96, lambda x, y: multiply(x, y).at[3, 4].add(1.0)).wrong() == 1


@pytest.mark.parametrize(
    ("seconds", "slow"),
    [
        ([1.0, 1.1, 0.9, 1.05, 3.0, 0.95, 2.0], [4, 6]),
        ([1.0] * 99 + [1.2], []),  # not by much
        ([1.0] * 99 + [1.3], [99]),
        ([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], []),  # all differ
        ([1.0, 9.0], []),  # which of two is it?
    ],
)
def test_those_far_from_the_median_are_found_however_many_there_are(seconds, slow):
    assert slow_ones(seconds) == slow


def test_a_slow_rank_is_named_with_what_it_does_and_what_the_others_do():
    seconds = np.full((8, 1), 0.1, np.float32)
    seconds[5] = 0.4
    names = RankNames({5: "node005"})
    said = self_test._said(seconds, {"memory": (10.0, "GB/s")}, names)
    assert said == [
        "  each process: memory 100 GB/s",
        "warning: rank 5 (node005) is slow: memory 25 GB/s, where the median rank has 100",
    ]


@pytest.mark.slow
def test_a_process_whose_product_is_wrong_is_named_by_all_with_its_host_and_place():
    done = subprocess.run(
        [sys.executable, str(LOCAL), "-n", "2", "--", str(HERE / "self_test_program.py")],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rates = r"products \S+ GFLOP/s, memory \S+ GB/s, exchange along x \S+ GB/s"
    assert re.search(f"^  each process: {rates}$", done.stdout, re.MULTILINE)
    place = f"{socket.gethostname()}, x1 y0 z0 a0 b0 c0"
    assert done.stdout.endswith(
        f"Rank 1 ({place}) computes wrong products in the test before the first step; leave out "
        "its node.\n"
    )
