"""Attention over a sequence that emulated devices share, held to attention on one device."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from fugaku_jax.kernels.dropout import Dropout
from fugaku_jax.parallel.ring_attention import ring_attention

PROGRAM = Path(__file__).with_name("ring_on_devices.py")
# Devices along x and y, which share the sequence, b, which shares the heads, and z, of which all
# but the last are idle. Blocks have four queries at most, and slices a multiple of four keys: of
# 7 and 28 positions some are padded.
CASES = {
    "2": {"mesh": (1, 2, 2, 3), "positions": 24, "dropout": True},
    "3": {"mesh": (3, 1, 1, 1), "positions": 7, "segments": True},
    "4": {"mesh": (2, 2, 1, 1), "positions": 8, "dtype": "bfloat16"},
    "6": {"mesh": (3, 2, 2, 1), "positions": 28, "segments": True, "dropout": True},
}


@pytest.fixture(scope="module")
def results(tmp_path_factory, run_emulated):
    """What `ring_on_devices.py` computed, by name."""
    out = tmp_path_factory.mktemp("ring") / "results.npz"
    run_emulated(PROGRAM, 12, out, json.dumps(CASES))
    return dict(np.load(out))


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", ["out", "d_q", "d_k", "d_v"])
def test_so_many_devices_compute_what_one_computes(results, case, name):
    one, many = (results[f"{case}/{how}/{name}"] for how in ("one", "many"))
    # Sums are taken in another order; bf16 rounds weights and results to 8 bits, and here the
    # gradient of the scores as well.
    tolerance = 0.02 if "dtype" in CASES[case] else 1e-5
    np.testing.assert_allclose(many, one, rtol=tolerance, atol=tolerance * np.abs(one).max())
    assert np.any(one != 0)


@pytest.mark.slow
def test_memory_grows_no_faster_than_the_positions_of_a_device(results):
    assert results["bytes/2048"] <= 2 * results["bytes/1024"]


def test_masks_want_a_multiple_of_four_positions(monkeypatch):
    monkeypatch.setattr(jax.lax, "axis_size", lambda _: 2)
    x = jnp.zeros((1, 6, 1, 4))
    masks = Dropout(jax.random.key(0), sequence_length=12)
    with pytest.raises(ValueError, match="6 positions"):
        ring_attention(x, x, x, ("x",), dropout=masks, dropout_rate=0.5)


def test_a_slice_of_every_shard_comes_in_one_gather_over_all_axes():
    mesh = AbstractMesh((2, 3), ("x", "y"), axis_types=(AxisType.Explicit,) * 2)
    with jax.set_mesh(None), jax.sharding.use_abstract_mesh(mesh):
        mapped = jax.shard_map(
            lambda x: ring_attention(x, x, x, ("x", "y")),
            in_specs=PartitionSpec(),
            out_specs=PartitionSpec(),
            check_vma=False,
        )
        own = jax.ShapeDtypeStruct((1, 4, 1, 4), jnp.float32)
        program = str(jax.make_jaxpr(mapped)(own))
    assert program.count("all_gather[") == 1


def test_one_device_has_nobody_to_send_to():
    mapped = jax.shard_map(
        lambda x: ring_attention(x, x, x, ("y",)),
        in_specs=PartitionSpec(),
        out_specs=PartitionSpec(),
        check_vma=False,
    )
    program = str(jax.make_jaxpr(mapped)(jnp.ones((1, 8, 1, 4))))
    assert "shard_map" in program  # y has length 1 on any machine
    assert "all_gather" not in program
    assert "all_to_all" not in program
