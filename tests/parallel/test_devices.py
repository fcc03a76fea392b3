"""Four emulated devices compute what one computes, dropout included."""

from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).with_name("four_devices.py")


@pytest.fixture(scope="module")
def results(tmp_path_factory, run_emulated):
    """What `four_devices.py` computed on one and on four devices, by name."""
    out = tmp_path_factory.mktemp("devices") / "results.npz"
    run_emulated(PROGRAM, 4, out)
    return dict(np.load(out))


def pairs(results, prefix):
    names = [name.removeprefix("1/") for name in results if name.startswith(f"1/{prefix}")]
    assert names
    return {name: (results[f"1/{name}"], results[f"4/{name}"]) for name in names}


def test_dropout_drops_the_same_elements_on_one_device_and_on_four(results):
    for name, (one, four) in pairs(results, "dropout/").items():
        np.testing.assert_array_equal(one, four, err_msg=name)
        assert 0 < np.count_nonzero(one) < one.size


def test_four_devices_each_hold_a_quarter_of_the_batch(results):
    assert results["4/rows"].tolist() == [1, 1, 1, 1]
    assert results["1/rows"].tolist() == [4]


def test_loss_on_four_devices_equals_that_on_one(results):
    for one, four in pairs(results, "loss").values():
        # The sum over the batch is taken in another order.
        np.testing.assert_allclose(one, four, rtol=1e-6)


def test_gradients_on_four_devices_equal_those_on_one(results):
    for name, (one, four) in pairs(results, "gradient/").items():
        assert np.linalg.norm(four - one) <= 1e-5 * np.linalg.norm(one), name
        assert np.any(one != 0), name
