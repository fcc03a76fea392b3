"""The kernels of rows and of elements give the same on one thread, on several, and on a mesh.

Layer normalisation, GELU, cross-entropy and AdamW."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fugaku_jax.kernels import native

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).with_name("row_kernels.py")


def run(folder, name, processors, **environment):
    """Run the program on a set of processors and return its arrays."""
    out = folder / f"{name}.npz"
    subprocess.run(
        ["taskset", "-c", ",".join(map(str, processors)), sys.executable, PROGRAM, out],
        env=os.environ | {"JAX_PLATFORMS": "cpu"} | environment,
        check=True,
        timeout=120,
    )
    return list(np.load(out).values())


@pytest.fixture(scope="module")
def one_thread(library, tmp_path_factory):  # noqa: ARG001
    first = min(os.sched_getaffinity(0))
    return run(tmp_path_factory.mktemp("one"), "one", {first})


def test_they_do_not_depend_on_the_number_of_threads(one_thread, tmp_path):
    everywhere = os.sched_getaffinity(0)
    for one, all_ in zip(one_thread, run(tmp_path, "all", everywhere), strict=True):
        np.testing.assert_array_equal(one, all_)


def test_they_equal_the_reference(one_thread, tmp_path):
    everywhere = os.sched_getaffinity(0)
    reference = run(tmp_path, "reference", everywhere, **{native.VARIABLE: "reference"})
    for ours, theirs in zip(one_thread, reference, strict=True):
        # The reference flushes what is below the normal numbers, 1e-38.
        np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=2e-5 * (1 + theirs.std()))


def test_on_a_mesh_they_equal_one_device_and_gather_nothing(one_thread, tmp_path):
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4"
    many = run(tmp_path, "many", os.sched_getaffinity(0), XLA_FLAGS=flags)
    for one, four in zip(one_thread, many, strict=True):
        # Sums over rows are taken in another order.
        np.testing.assert_allclose(four, one, rtol=1e-5, atol=1e-5 * (1 + one.std()))
