"""The schedule's executor against automatic differentiation of a plain pipeline."""

from pathlib import Path

import numpy as np
import pytest
from pipelines_on_devices import CASES, TYPES

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).with_name("pipelines_on_devices.py")


@pytest.fixture(scope="module")
def results(tmp_path_factory, run_emulated):
    """What `pipelines_on_devices.py` computed on up to four devices, by name."""
    out = tmp_path_factory.mktemp("pipelines") / "results.npz"
    run_emulated(PROGRAM, 4, out)
    return dict(np.load(out))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("what", ["loss", "up", "bias", "down", "table", "norm"])
def test_a_schedule_gives_the_loss_and_gradients_of_a_differentiated_pipeline(case, what, results):
    found, expected = results[f"{case}/executor/{what}"], results[f"{case}/oracle/{what}"]
    # Six micro-batches are added in another order: a rounding each, 6e-8 of the largest summand.
    # The stream of bf16 rounds to 8 bits, and XLA rounds where it does not fuse.
    rtol, atol = (0.02, 0.02) if CASES[case][-1] == "bfloat16" else (1e-5, 1e-6)
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=atol * np.abs(expected).max())


@pytest.mark.parametrize("stages", [2, 3, 4])
@pytest.mark.parametrize("dtype", TYPES)
def test_a_message_arrives_bit_for_bit_among_any_number_of_stages(stages, dtype, results):
    sent, received = results[f"swapped/{stages}/{dtype}"]
    np.testing.assert_array_equal(received, sent[::-1])
