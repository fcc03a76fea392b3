"""Sums and gathers give what `psum` gives, and place shards where `PartitionSpec` would."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from collectives_on_devices import CASES, REFUSED, summands
from jax.sharding import PartitionSpec

from fugaku_jax.collectives.sums import all_gather, all_reduce, reduce_scatter

PROGRAM = Path(__file__).with_name("collectives_on_devices.py")

every_case = pytest.mark.parametrize("name", CASES)
every_divisible_case = pytest.mark.parametrize(
    "name", [name for name, case in CASES.items() if case.divisible]
)


@pytest.fixture(scope="module")
def results(tmp_path_factory, run_emulated):
    """What `collectives_on_devices.py` computed on 24 and 56 devices, by name."""
    out = tmp_path_factory.mktemp("collectives") / "results.npz"
    run_emulated(PROGRAM, 56, out)
    return dict(np.load(out))


@pytest.mark.slow
@every_case
def test_psum_is_the_sum(name, results):
    """So that the oracle of the other tests is one."""
    case = CASES[name]
    total = summands(case).astype(np.float64).sum(0)
    # bf16 keeps 8 bits, fp16 11.
    rtol = {"bfloat16": 2**-8, "float16": 2**-11}.get(case.dtype, 1e-6)
    for copy in results[f"{name}/psum"]:
        np.testing.assert_allclose(copy, total, rtol)


@every_case
def test_all_reduce_equals_psum_on_every_device(name, results):
    # Up to 56 summands of one sign in another order: a rounding each, 6e-8, that mostly cancel.
    reduced = results[f"{name}/reduced"]
    np.testing.assert_allclose(reduced, results[f"{name}/psum"], rtol=1e-6)
    assert results[f"{name}/reduced/dtype"] == CASES[name].dtype


@every_divisible_case
def test_reduce_scatter_places_the_shards_of_psum_as_a_partition_spec_would(name, results):
    # The shards were joined by `out_specs`; a shard in another place would be rows out of order.
    scattered = results[f"{name}/scattered"]
    np.testing.assert_allclose(scattered, results[f"{name}/psum"][0], rtol=1e-6)
    assert results[f"{name}/scattered/dtype"] == CASES[name].dtype


@every_divisible_case
def test_all_gather_restores_on_every_device_what_was_scattered(name, results):
    scattered = results[f"{name}/scattered"]
    for copy in results[f"{name}/gathered"]:
        np.testing.assert_array_equal(copy, scattered)


@every_case
def test_sums_are_the_same_to_the_last_bit_on_every_device(name, results):
    first, *others = results[f"{name}/reduced"]
    for other in others:
        np.testing.assert_array_equal(other, first)


def test_a_sum_of_a_tensor_parallel_array_moves_nothing_else(results):
    counts = {name: int(count) for name, count in results.items() if name.startswith("count/")}
    assert counts == {"count/all-reduce": 1}


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_be_is_refused(message, results):
    assert message in str(results[f"refused/{message}"])


def test_axes_of_one_device_cost_nothing():
    """On the mesh of one device no collective is left in the program."""
    axes = jax.sharding.get_mesh().axis_names[:3]
    placed = tuple((axis, 0) for axis in axes)

    def function(x):
        return all_gather(reduce_scatter(all_reduce(x, axes), placed), placed)

    mapped = jax.shard_map(
        function, in_specs=PartitionSpec(), out_specs=PartitionSpec(), check_vma=False
    )
    program = str(jax.make_jaxpr(mapped)(jnp.ones(3)))
    assert "shard_map" in program
    assert "reduce" not in program
    assert "gather" not in program
