"""The mesh and the one table that says what its axes carry."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, PartitionSpec

from fugaku_jax.sharding.mesh import AXES, make_mesh
from fugaku_jax.sharding.rules import RULES, spec


def test_the_mesh_has_six_explicit_axes_over_all_devices():
    mesh = make_mesh()
    assert mesh.axis_names == AXES == ("x", "y", "z", "a", "b", "c")
    assert mesh.axis_types == (AxisType.Explicit,) * 6
    assert mesh.size == jax.device_count()


def test_a_spec_follows_the_table():
    assert spec("batch", None, "vocab") == PartitionSpec(RULES["batch"], None, RULES["vocab"])
    assert spec() == PartitionSpec()


def test_no_pair_of_logical_axes_of_one_array_shares_a_mesh_axis():
    # A mesh axis can split one dimension of an array only.
    for pair in (("batch", "vocab"), ("batch", "heads"), ("embed", "mlp"), ("vocab", "embed")):
        first, second = (set(RULES[axis] or ()) for axis in pair)
        assert not first & second, pair


def test_every_rule_is_a_sharding_that_the_mesh_takes():
    for axis in RULES:
        array = jax.device_put(np.zeros(jax.device_count() * 2), spec(axis))
        assert jax.typeof(array).sharding.spec == spec(axis)
        assert jnp.sum(array) == 0
