"""The product with weights on three emulated devices, held to NumPy in float64."""

from pathlib import Path

import numpy as np
import pytest

PROGRAM = Path(__file__).with_name("product_on_devices.py")
CASES = (
    "nothing shared",
    "outputs",
    "inputs",
    "positions, then outputs",
    "inputs, then positions",
)


@pytest.fixture(scope="module")
def results(tmp_path_factory, run_emulated):
    """What `product_on_devices.py` found."""
    out = tmp_path_factory.mktemp("product") / "results.npz"
    run_emulated(PROGRAM, 3, out)
    return dict(np.load(out))


@pytest.mark.parametrize("case", CASES)
# Sums of twelve numbers near 1, rounded to 24 bits or to 8.
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 0.15)])
def test_value_and_gradients_are_those_of_the_einsum(results, case, dtype, tolerance):
    names = ("x", "kernel", "bias", "cotangent")
    x, kernel, bias, dy = (results[name].astype(np.float64) for name in names)
    expected = {
        "y": np.einsum("btd,df->btf", x, kernel) + bias,
        "dx": np.einsum("btf,df->btd", dy, kernel),
        "dk": np.einsum("btd,btf->df", x, dy),
        "db": dy.sum((0, 1)),
    }
    for name, value in expected.items():
        found = results[f"{case}/{dtype}/{name}"]
        np.testing.assert_allclose(found, value, atol=tolerance, rtol=0, err_msg=name)


@pytest.mark.parametrize("case", ["positions, then outputs", "inputs, then positions"])
def test_shared_positions_are_gathered_and_scattered_and_never_summed_whole(results, case):
    kinds = {name.split("/count ")[1] for name in results if name.startswith(f"{case}/float32/c")}
    assert kinds == {"all-gather", "reduce-scatter"}
