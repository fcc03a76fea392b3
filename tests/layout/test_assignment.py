"""The assignment of mesh axes is the best there is by the costs that `search` names."""

import itertools
import math

import numpy as np
import pytest
from assignment_oracle import (
    coordinates,
    cost,
    diameter,
    divisors,
    every_assignment,
    ways,
)
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fugaku_jax.errors import InputError
from fugaku_jax.layout.assignment import Assignment, Part, degrees, without_torus
from fugaku_jax.layout.factors import KINDS
from fugaku_jax.layout.search import assign

FUGAKU = (24, 2, 24, 2, 3, 2)
UNITS = [(1, 1, 1), (2, 1, 1), (1, 3, 1), (2, 3, 1), (2, 1, 2), (2, 3, 2)]


@st.composite
def meshes(draw, sizes=(1, 2, 3, 4, 6, 8)):
    """A shape and degrees that fill it."""
    shape = (*(draw(st.sampled_from(sizes)) for _ in range(3)), *draw(st.sampled_from(UNITS)))
    rest = math.prod(shape)
    found = {}
    for kind in ("pipeline", "context", "tensor"):
        found[kind] = draw(st.sampled_from(divisors(rest)))
        rest //= found[kind]
    return shape, found | {"data": rest}


def check_is_best(shape, wanted):
    candidates = {parts: cost(shape, parts) for parts in every_assignment(shape, wanted)}
    found = assign(shape, wanted).parts
    assert found in candidates
    assert candidates[found] == min(candidates.values())
    equal = [parts for parts, each in candidates.items() if each[:2] == candidates[found][:2]]
    assert diameter(shape, found) == min(diameter(shape, parts) for parts in equal)


@pytest.mark.parametrize(
    ("shape", "tensor", "context", "pipeline"),
    [
        ((2, 1, 2, 1, 3, 2), 3, 2, 2),
        ((4, 2, 1, 2, 3, 1), 6, 2, 2),
        ((8, 1, 3, 1, 1, 2), 2, 2, 4),
        ((6, 1, 4, 2, 1, 1), 6, 1, 4),
        ((12, 1, 1, 1, 1, 1), 2, 3, 2),
        ((24, 1, 2, 1, 1, 1), 2, 2, 6),
        ((8, 1, 6, 1, 1, 1), 3, 1, 8),
        ((5, 3, 1, 2, 1, 1), 5, 3, 1),
        ((1, 12, 1, 2, 1, 1), 3, 4, 1),
        ((2, 12, 1, 1, 3, 1), 3, 1, 4),
        ((6, 1, 1, 1, 1, 1), 3, 2, 1),
        ((1, 1, 1, 4, 1, 1), 2, 2, 1),
        ((6, 1, 1, 2, 1, 1), 3, 1, 2),
        ((1, 1, 1, 1, 1, 1), 1, 1, 1),
    ],
)
def test_no_assignment_of_a_small_mesh_costs_less(shape, tensor, context, pipeline):
    wanted = degrees(math.prod(shape), tensor=tensor, context=context, pipeline=pipeline)
    check_is_best(shape, wanted)


@settings(max_examples=40, deadline=None)
@given(meshes(sizes=(1, 1, 2, 3, 4, 6)))
def test_no_assignment_of_any_small_mesh_costs_less(mesh):
    shape, wanted = mesh
    kinds = [kind for kind in KINDS if wanted[kind] > 1]
    assume(math.prod(len(ways("x", size, kinds)) for size in shape) < 5000)
    check_is_best(shape, wanted)


@settings(max_examples=60, deadline=None)
@given(meshes())
def test_each_device_has_its_own_place_in_every_kind(mesh):
    shape, wanted = mesh
    found = assign(shape, wanted)
    # Splitting an axis moves no device: the parts in row-major order are the axes.
    devices = np.arange(math.prod(shape))
    indices = np.stack(np.unravel_index(devices, found.shape), axis=1)
    places = [coordinates(found.parts, each) for each in indices.tolist()]
    assert places == list(itertools.product(*map(range, shape)))
    columns = dict(zip(found.names, indices.T, strict=True))
    ranks = []
    for kind, degree in wanted.items():
        sizes = [part.size for part in found.parts if part.kind == kind]
        digits = [columns[name] for name in found.axes(kind)]
        ranks.append(np.ravel_multi_index((devices * 0, *digits), (1, *sizes)).tolist())
        assert set(ranks[-1]) == set(range(degree))
    assert len(set(zip(*ranks, strict=True))) == len(devices)


@settings(max_examples=60, deadline=None)
@given(meshes())
def test_only_split_axes_have_numbered_parts_and_parts_of_one_device_are_whole_axes(mesh):
    shape, wanted = mesh
    found = assign(shape, wanted)
    by_axis = itertools.groupby(found.parts, key=lambda part: part.name[0])
    for (name, group), axis, size in zip(by_axis, "xyzabc", shape, strict=True):
        parts = list(group)
        assert name == axis
        assert math.prod(part.size for part in parts) == size
        if len(parts) == 1:
            assert parts[0].name == axis
        else:
            assert [part.name for part in parts] == [f"{axis}{i}" for i in range(len(parts))]
            assert min(part.size for part in parts) > 1
            assert len({part.kind for part in parts}) == len(parts)
    assert all(part.kind == "data" for part in found.parts if part.size == 1)


def test_the_original_fugaku_mesh_keeps_tensor_in_the_unit_and_stages_adjacent():
    found = assign(FUGAKU, degrees(13_824, tensor=6, pipeline=8))
    assert found == Assignment(
        (
            Part("x0", 3, "data"),
            Part("x1", 8, "pipeline"),
            Part("y", 2, "data"),
            Part("z", 24, "data"),
            Part("a", 2, "data"),
            Part("b", 3, "tensor"),
            Part("c", 2, "tensor"),
        )
    )
    assert found.names == ("x0", "x1", "y", "z", "a", "b", "c")
    assert found.shape == (3, 8, 2, 24, 2, 3, 2)
    assert found.axes("tensor") == ("b", "c")
    assert found.axes("data") == ("x0", "y", "z", "a")
    assert found.axes("pipeline") == ("x1",)
    assert found.axes("context") == ()
    outside, splits, *_, pipeline = cost(FUGAKU, found.parts)
    assert (outside, splits, diameter(FUGAKU, found.parts), pipeline) == (0, 1, 2, 7)


@pytest.mark.parametrize(
    ("wanted", "tensor", "pipeline"),
    [
        ({"tensor": 12}, ("a", "b", "c"), ()),
        ({"tensor": 4}, ("a", "c"), ()),
        ({"tensor": 3, "pipeline": 24}, ("b",), ("x",)),
        ({"tensor": 24, "pipeline": 24}, ("y", "a", "b", "c"), ("x",)),
        ({"pipeline": 2}, (), ("y",)),
    ],
)
def test_on_fugaku_whole_axes_are_taken_where_they_fit(wanted, tensor, pipeline):
    found = assign(FUGAKU, degrees(13_824, **wanted))
    assert found.axes("tensor") == tensor
    assert found.axes("pipeline") == pipeline
    assert len(found.parts) == 6


def test_all_four_kinds_share_24_devices():
    found = assign((2, 1, 2, 1, 3, 2), degrees(24, tensor=3, pipeline=2, context=2))
    assert [found.axes(kind) for kind in KINDS] == [("b",), ("c",), ("y", "z", "a"), ("x",)]


def test_a_degree_of_minus_one_takes_what_the_others_leave():
    filled = {"tensor": 6, "context": 1, "data": 288, "pipeline": 8}
    assert degrees(13_824, tensor=6, pipeline=8) == filled
    assert degrees(13_824, data=288, tensor=-1, pipeline=8) == filled
    assert degrees(13_824, data=288, tensor=6, pipeline=-1) == filled
    assert degrees(13_824, data=288, tensor=6, pipeline=8) == filled
    assert degrees(1) == dict.fromkeys(KINDS, 1)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            {"devices": 24, "tensor": 5, "pipeline": 8},
            "mesh.tensor 5 x mesh.context 1 x mesh.pipeline 8 is 40, which does not divide 24, the "
            "number of devices; nearest that would do: mesh.tensor 3, mesh.context 1, mesh.data 1, "
            "mesh.pipeline 8.",
        ),
        (
            {"devices": 13_824, "data": 252, "tensor": 6, "pipeline": 8},
            "mesh.tensor 6 x mesh.context 1 x mesh.data 252 x mesh.pipeline 8 is 12096, but it "
            "must be 13824, the number of devices; nearest that would do: mesh.tensor 6, "
            "mesh.context 1, mesh.data 288, mesh.pipeline 8.",
        ),
        (
            {"devices": 4, "data": -1, "tensor": -1},
            "mesh.tensor and mesh.data are -1, but only one can take what the others leave of the "
            "devices; give the rest numbers.",
        ),
        (
            {"devices": 4, "context": 0},
            "mesh.context is 0, but it must be at least 1; a single one of the degrees may be "
            "given as -1 and takes what the others leave of the devices.",
        ),
    ],
)
def test_degrees_that_do_not_fit_are_refused_with_what_would_do(arguments, sentence):
    with pytest.raises(InputError) as raised:
        degrees(**arguments)
    assert str(raised.value) == sentence


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 60), *(st.integers(1, 12) for _ in range(3)))
def test_the_nearest_degrees_of_a_refusal_are_accepted(devices, tensor, context, pipeline):
    wanted = {"tensor": tensor, "context": context, "pipeline": pipeline}
    assume(devices % math.prod(wanted.values()))
    with pytest.raises(InputError) as raised:
        degrees(devices, **wanted)
    offered = str(raised.value).rstrip(".").split("would do: ")[1].split(", ")
    numbers = {name.removeprefix("mesh."): int(number) for name, number in map(str.split, offered)}
    assert degrees(devices, **numbers) == numbers


def test_a_mesh_of_another_size_is_refused_with_its_shape():
    with pytest.raises(InputError, match=r"must be 4, the devices of the mesh 2x2x1x1"):
        assign((2, 2, 1, 1, 1, 1), {"tensor": 3})
    with pytest.raises(InputError, match=r"six sizes of at least 1, those of x y z a b c"):
        assign((2, 0, 1, 1, 1, 1), {})
    with pytest.raises(InputError, match=r"mesh.tensor is -2, but"):
        assign((2, 2, 1, 1, 1, 1), {"tensor": -2, "data": -2})


@pytest.mark.parametrize(
    ("wanted", "shape"),
    [
        ({"data": 24}, (24, 1, 1, 1, 1, 1)),
        ({"data": 4, "tensor": 6}, (4, 1, 1, 2, 3, 1)),
        ({"tensor": 12}, (1, 1, 1, 2, 3, 2)),
        ({"tensor": 8}, (1, 1, 1, 4, 1, 2)),
        ({"tensor": 5, "pipeline": 2}, (2, 1, 1, 5, 1, 1)),
        ({"data": 3, "tensor": 2, "pipeline": 4}, (4, 3, 1, 2, 1, 1)),
        ({"data": 3, "tensor": 4, "pipeline": 2, "context": 5}, (2, 3, 5, 2, 1, 2)),
    ],
)
def test_a_machine_without_a_torus_gets_an_axis_for_each_kind(wanted, shape):
    assert without_torus(dict.fromkeys(KINDS, 1) | wanted).shape == shape


@settings(max_examples=60, deadline=None)
@given(st.fixed_dictionaries({kind: st.integers(1, 10) for kind in KINDS}))
def test_without_a_torus_no_axis_is_split_and_a_torus_of_that_shape_would_be_used_alike(wanted):
    found = without_torus(wanted)
    assert found.names == tuple("xyzabc")
    assert found == assign(found.shape, wanted)
    carried = [(p.kind, p.size) for p in found.parts if p.size > 1 and p.kind != "tensor"]
    outermost_first = ("pipeline", "data", "context")
    assert carried == [(kind, wanted[kind]) for kind in outermost_first if wanted[kind] > 1]
    assert set(found.axes("tensor")) <= set("abc")
