"""Converting a model takes the memory of a few tensors, however many layers it has."""

import json
import os
import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).with_name("conversion_memory.py")
LAYERS = 3
LAYER_BYTES = 4 * (12 * 5184**2)
EMBEDDING_BYTES = 4 * 48_586 * 5184


def test_a_conversion_of_fugaku_llms_width_needs_less_than_its_model(tmp_path):
    done = subprocess.run(
        [sys.executable, PROGRAM, tmp_path, "both", str(LAYERS)],
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    model = LAYERS * LAYER_BYTES + EMBEDDING_BYTES
    for line in done.stdout.splitlines():
        figures = json.loads(line)
        grown = figures["peak_bytes"] - figures["before_bytes"]
        # At most the embedding as it is read, and once more as it is written; a layer is less.
        assert grown < 2 * EMBEDDING_BYTES < model, figures
        assert figures["peak_bytes"] < 4e9
    assert len(done.stdout.splitlines()) == 2
