"""The rules that say what the mesh axes carry."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from fugaku_jax.config import MeshConfig
from fugaku_jax.errors import InputError
from fugaku_jax.layout.mesh import active, assign_axes, make_mesh, rules_of
from fugaku_jax.layout.rules import Rules
from fugaku_jax.layout.torus import torus_order, torus_places, torus_shape
from fugaku_jax.tofu.allocation import RankMap, fold, parse_shape, write_vcoordfile
from fugaku_jax.tofu.topology import AXES

SIZES = {"x": 2, "y": 5, "z": 7, "a": 4, "b": 3, "c": 2}
RULES = Rules(
    data=("x", "y"),
    tensor=("b", "c"),
    context=("z",),
    pipeline=("a",),
    sequence_parallel=True,
    lengths=tuple(SIZES.items()),
)
PARTS = {
    "batch": 2 * 5,
    "sequence": 7 * 3 * 2,
    "vocab": 3 * 2,
    "heads": 3 * 2,
    "mlp": 3 * 2,
    "embed": 1,
    "layers": 1,
    "stage": 4,
}


def test_the_mesh_has_six_explicit_axes_over_all_devices():
    mesh = jax.sharding.get_mesh()
    assert mesh.axis_names == AXES == ("x", "y", "z", "a", "b", "c")
    assert mesh.axis_types == (AxisType.Explicit,) * 6
    assert mesh.size == jax.device_count()


def test_a_spec_follows_the_rules():
    assert RULES.spec("batch", None, "vocab") == PartitionSpec(("x", "y"), None, ("b", "c"))
    assert RULES.spec("stage", "embed") == PartitionSpec(("a",), None)
    assert RULES.spec() == PartitionSpec()


def test_positions_are_shared_only_where_the_tensor_axes_share_nothing_else():
    assert RULES.spec("batch", "sequence", "embed")[1] == ("z", "b", "c")
    assert RULES.spec("batch", "sequence", "heads", None)[1] == "z"
    mlp = PartitionSpec(("x", "y"), ("z",), ("b", "c"))
    assert RULES.spec("batch", "sequence", "mlp") == mlp


@pytest.mark.parametrize("logical", PARTS)
def test_every_rule_is_a_sharding_into_as_many_parts_as_its_axes_have_devices(logical):
    types = (AxisType.Explicit,) * len(SIZES)
    mesh = AbstractMesh(tuple(SIZES.values()), tuple(SIZES), axis_types=types)
    size = math.prod(SIZES.values())
    with active(mesh):
        array = jax.eval_shape(lambda: jnp.zeros(size, out_sharding=RULES.spec(logical)))
    assert array.sharding.shard_shape(array.shape) == (size // PARTS[logical],)
    assert RULES.parts(logical) == PARTS[logical]


def test_without_stages_all_but_the_tensor_axes_carry_data():
    expected = Rules(data=("a", "x", "y", "z"), tensor=("b", "c"), lengths=RULES.lengths)
    assert RULES.without_stages() == expected


def test_the_originals_parallelism_lies_on_its_torus():
    config = MeshConfig(tensor=6, pipeline=8, data=288, shape="48x6x48:torus")
    rules = rules_of(assign_axes(config, 13_824), sequence_parallel=False)
    assert rules.tensor == ("b", "c")  # inside the unit of twelve nodes
    assert rules.pipeline == ("x1",)
    assert set(rules.data) == {"x0", "y", "z", "a"}


def test_the_devices_of_a_node_are_an_axis_beside_the_six_and_carry_tensor_parallelism():
    config = MeshConfig(tensor=12, pipeline=8, data=576, local=4, shape="48x6x48:torus")
    rules = rules_of(assign_axes(config, 4 * 13_824), sequence_parallel=False)
    assert rules.tensor[-1] == "k"


def test_six_sizes_are_a_torus_as_they_are():
    assert torus_shape("2x1x2x1x3x2") == (2, 1, 2, 1, 3, 2)


def test_devices_are_ordered_and_ranks_named_by_the_coordinates_of_a_rank_map(tmp_path):
    # The ranks of a 4x6x2 job, scattered at random, two to a node.
    job = parse_shape("4x6x2:torus")
    torus = fold(job).coordinates(np.arange(48))
    order = np.random.default_rng(0).permutation(np.repeat(np.arange(48), 2))
    rank_map = RankMap.from_torus(job, torus[order], ranks_per_node=2)
    write_vcoordfile(rank_map, tmp_path / "map")
    config = MeshConfig(shape="4x6x2:torus")
    found = torus_order(range(96), config, tmp_path / "map")
    np.testing.assert_array_equal(order[found], np.repeat(np.arange(48), 2))
    named = [" ".join(f"{a}{n}" for a, n in zip("xyzabc", at, strict=True)) for at in torus]
    assert torus_places(config, 96, tmp_path / "map") == [named[node] for node in order]
    assert torus_places(config, 96, None) == [named[node] for node in np.repeat(range(48), 2)]
    assert torus_places(MeshConfig(), 96, None) == []


@pytest.mark.parametrize(
    ("mesh", "message"),
    [
        ({"shape": "4x6:mesh"}, "24 nodes, but there are 1,"),
        ({"data": 3}, "mesh.data"),
        ({"shape": "2x2x0"}, "2x2x0"),
        ({"data": -1, "tensor": -1}, "mesh.tensor and mesh.data are -1"),
    ],
)
def test_a_mesh_that_does_not_fit_the_devices_is_refused(mesh, message):
    with pytest.raises(InputError, match=message):
        make_mesh(MeshConfig(**mesh), jax.devices()[:1])
