"""The rules that say what the mesh axes carry."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from fugaku_jax.config import MeshConfig
from fugaku_jax.errors import InputError
from fugaku_jax.sharding.mesh import abstract_mesh, assign_axes, rules_of, set_mesh, torus_shape
from fugaku_jax.sharding.rules import Rules, get_rules, spec, use_rules
from fugaku_jax.tofu.topology import AXES

RULES = Rules(
    data=("x", "y"), tensor=("b", "c"), context=("z",), pipeline=("a",), sequence_parallel=True
)
LOGICAL = ("batch", "sequence", "vocab", "heads", "mlp", "embed", "layers", "stage")


def test_the_mesh_has_six_explicit_axes_over_all_devices():
    mesh = jax.sharding.get_mesh()
    assert mesh.axis_names == AXES == ("x", "y", "z", "a", "b", "c")
    assert mesh.axis_types == (AxisType.Explicit,) * 6
    assert mesh.size == jax.device_count()


def test_a_spec_follows_the_rules():
    with use_rules(RULES):
        assert spec("batch", None, "vocab") == PartitionSpec(("x", "y"), None, ("b", "c"))
        assert spec("stage", "embed") == PartitionSpec(("a",), None)
        assert spec() == PartitionSpec()


def test_positions_are_shared_only_where_the_tensor_axes_share_nothing_else():
    with use_rules(RULES):
        assert spec("batch", "sequence", "embed")[1] == ("z", "b", "c")
        assert spec("batch", "sequence", "heads", None)[1] == "z"
        assert spec("batch", "sequence", "mlp") == PartitionSpec(("x", "y"), ("z",), ("b", "c"))


def test_rules_are_in_force_for_as_long_as_they_are_asked_for():
    before = get_rules()
    with use_rules(RULES):
        assert get_rules() == RULES
    assert get_rules() == before


@pytest.mark.parametrize("logical", LOGICAL)
def test_every_rule_is_a_sharding_that_the_mesh_takes(logical):
    with use_rules(RULES):
        array = jax.device_put(np.zeros(4), spec(logical))
        assert jax.typeof(array).sharding.spec == spec(logical)
        assert jnp.sum(array) == 0


def test_without_stages_all_but_the_tensor_axes_carry_data():
    assert RULES.without_stages() == Rules(data=("a", "x", "y", "z"), tensor=("b", "c"))


def test_the_originals_parallelism_lies_on_its_torus():
    config = MeshConfig(tensor=6, pipeline=8, data=288, shape="48x6x48:torus")
    rules = rules_of(assign_axes(config, 13_824), sequence_parallel=False)
    assert rules.tensor == ("b", "c")  # inside the unit of twelve nodes
    assert rules.pipeline == ("x1",)
    assert set(rules.data) == {"x0", "y", "z", "a"}


def test_six_sizes_are_a_torus_as_they_are():
    assert torus_shape("2x1x2x1x3x2") == (2, 1, 2, 1, 3, 2)


@pytest.mark.parametrize(
    ("mesh", "message"),
    [
        ({"shape": "4x6:mesh"}, "24 nodes, but there are 1 devices"),
        ({"data": 3}, "mesh.data"),
        ({"shape": "2x2x0"}, "2x2x0"),
        ({"data": -1, "tensor": -1}, "mesh.tensor and mesh.data are -1"),
    ],
)
def test_a_mesh_that_does_not_fit_the_devices_is_refused(mesh, message):
    with pytest.raises(InputError, match=message):
        set_mesh(MeshConfig(**mesh), jax.devices()[:1])


def test_a_mesh_of_no_device_is_enough_to_reason_about_shapes():
    assert abstract_mesh().shape == dict.fromkeys(AXES, 1)
