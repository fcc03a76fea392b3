"""Attention gives the same numbers on any number of threads and of devices."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fugaku_jax.kernels import native

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).with_name("attention_on_devices.py")


@pytest.fixture(scope="module")
def compute(tmp_path_factory):
    """A function that runs the program with so many devices, on some processors."""
    folder = tmp_path_factory.mktemp("attention")

    def run(devices, cpus):
        path = folder / f"{devices} on {len(cpus)}.npz"
        environment = os.environ | {"JAX_NUM_CPU_DEVICES": str(devices), native.VARIABLE: "native"}
        places = ",".join(map(str, cpus))
        command = ["taskset", "--cpu-list", places, sys.executable, PROGRAM, path]
        subprocess.run(command, env=environment, check=True, timeout=600)
        return dict(np.load(path))

    return run


def test_neither_threads_nor_devices_change_the_result(compute):
    cpus = sorted(os.sched_getaffinity(0))
    one, threads, devices = compute(1, cpus[:1]), compute(1, cpus), compute(8, cpus)
    for name, exact in one.items():
        np.testing.assert_array_equal(threads[name], exact, err_msg=name)
        # A device has fewer heads, so that its keys are cut into more parts, and each part's
        # gradients of the queries are added up on their own.
        tolerance = 0 if name == "plain out" else 2e-6
        np.testing.assert_allclose(devices[name], exact, rtol=0, atol=tolerance, err_msg=name)
