"""Converting a model takes the memory of a few tensors, however many layers it has."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).with_name("conversion_memory.py")
MATRIX_BYTES = 4 * 3 * 5184**2
MODEL_BYTES = 2 * 2 * MATRIX_BYTES  # two layers of six such thirds


def test_a_conversion_of_fugaku_llms_width_takes_the_memory_of_a_matrix(tmp_path):
    done = subprocess.run(
        [sys.executable, PROGRAM, tmp_path, "small"],
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    assert len(done.stdout.splitlines()) == 2
    for line in done.stdout.splitlines():
        figures = json.loads(line)
        # The largest matrix as it is read, as it is ordered, and in bf16.
        grown = figures["peak_bytes"] - figures["before_bytes"]
        assert grown < 2.5 * MATRIX_BYTES < MODEL_BYTES, figures
