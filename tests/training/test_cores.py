"""The number of cores is no part of a run: they share its work, and not its sums."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fugaku_jax.kernels import native
from fugaku_jax.processor import available_cores

PROGRAM = Path(__file__).with_name("steps_on_cores.py")
# Wide enough that XLA gives the sums over positions to several threads.
WIDE = {"d_model": 96, "sequence_length": 64}
CASES = {
    "gpt2": {"model": WIDE, "training": {"batch_size": 4}},
    "llama, bf16, everything computed again": {
        "model": WIDE | {"family": "llama", "n_kv_heads": 3, "tied": False},
        "training": {"batch_size": 4, "precision": "bf16", "remat": "block"},
    },
}


@pytest.mark.slow
def test_a_step_is_the_same_to_the_last_bit_on_one_core_and_on_all(tmp_path):
    assert native.enabled()  # products of XLA's do depend on it
    found, cores_here = [], ",".join(map(str, available_cores()))
    for name, cores in (("one", cores_here.split(",")[0]), ("all", cores_here)):
        out = tmp_path / f"{name}.npz"
        subprocess.run(
            ["taskset", "-c", cores, sys.executable, PROGRAM, out, json.dumps(CASES)],
            env=os.environ | {"JAX_PLATFORMS": "cpu"},
            check=True,
            timeout=600,
        )
        found.append(np.load(out))
    one, every = found
    assert one.files == every.files
    for name in one.files:
        np.testing.assert_array_equal(one[name], every[name], err_msg=name)
