"""Real processes over gloo: they find each other, add up over all devices, and fail together."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
LOCAL = HERE.parents[1] / "launch" / "cluster" / "local.py"
PROGRAM = str(HERE / "reduce_program.py")


def run(*arguments, timeout_seconds=100, **environ):
    """Start processes with `local.py`."""
    return subprocess.run(
        [sys.executable, str(LOCAL), *map(str, arguments)],
        env=os.environ
        | {"JAX_PLATFORMS": "cpu", "FUGAKU_JAX_TIMEOUT": str(timeout_seconds)}
        | environ,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def test_four_processes_of_two_devices_add_up_though_one_is_late_and_hear_of_one_wish():
    done = run("-n", 4, "--devices-per-process", 2, "--", PROGRAM, "late", 3)
    assert done.returncode == 0, done.stderr
    assert "sum 20.0 over 8 devices of 4 processes\n" in done.stdout
    # 0 + 1 + 2 + 3 of the ranks, and the turn of each.
    assert f"wished at [7], sums {[6 + 4 * turn for turn in range(9)]}\n" in done.stdout
    assert "refused of [0, 1, 2, 3]\n" in done.stdout
    # It is wished after 7, and not before 9 have all heard of it.
    assert "stop after 9\n" in done.stdout
    # The step to stop at; all that was wished and decided is gone.
    assert "left 1\n" in done.stdout


def test_a_proxy_that_answers_nobody_does_no_harm_and_one_that_fails_ends_both():
    # gRPC would send the coordinator's connection to the proxy.
    proxies = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY"), "http://127.0.0.1:9")
    done = run("-n", 2, "--", PROGRAM, "fail", 1, **proxies)
    assert "sum 3.0 over 2 devices of 2 processes\n" in done.stdout
    # Without `leave` rank 1 would wait at its end for rank 0, and the launcher see nothing.
    assert done.returncode == 2
    assert "[rank 1] error: this rank's own file is missing.\n" in done.stderr


def test_a_rank_that_never_arrives_is_named_with_exit_code_1():
    done = run("-n", 3, "--", PROGRAM, "absent", 2, timeout_seconds=5)
    assert done.returncode == 1
    assert done.stderr.startswith("error: Rank 2 of 3 did not arrive at 127.0.0.1:")
    assert done.stderr.count("\n") == 1


def test_a_rank_with_another_configuration_is_refused_naming_the_field():
    done = run("-n", 3, "--", PROGRAM, "differ", 1)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "training.seed is 1 on ranks 0 and 2 and 7 on rank 1" in done.stderr
