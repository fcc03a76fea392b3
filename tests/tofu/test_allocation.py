"""A job's shape folds so that its dimensions are rings, and rank maps survive their file."""

from itertools import product
from math import prod

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fugaku_jax.errors import InputError
from fugaku_jax.tofu.allocation import (
    JobShape,
    RankMap,
    fold,
    fold_coordinates,
    parse_shape,
    read_vcoordfile,
    unfold_coordinates,
    write_vcoordfile,
)

_ORIGINAL = JobShape((48, 6, 48), torus=True)


def all_coordinates(shape: tuple[int, ...]) -> np.ndarray:
    """Every coordinate of a shape, row by row: [nodes, dimensions]."""
    return np.array(list(product(*map(range, shape))))


@pytest.mark.parametrize(
    ("text", "shape", "torus"),
    [
        ("48x6x48:torus:strict-io", (48, 6, 48), True),
        ("48x6x48", (48, 6, 48), True),
        ("12", (12,), False),
        ("12:torus", (12,), True),
        ("4x6", (4, 6), False),
        ("4x6:mesh:strict", (4, 6), False),
        ("384", (384,), False),
        ("385", (385,), True),
        ("2x3x2:noncont", (2, 3, 2), False),
        ("48x36x48:torus", (48, 36, 48), True),
    ],
)
def test_shapes_are_read_as_pjm_writes_them(text, shape, torus):
    job = parse_shape(text)
    assert job == JobShape(shape, torus)
    assert parse_shape(str(job)) == job


@pytest.mark.parametrize(
    "text",
    ["", "x", "4x", "1x2x3x4", "4X6", "-4", "4x6:ring", "4x6:torus:torus", "node=4", "4x6 ", "٤"],
)
def test_a_malformed_shape_is_repeated_in_the_error(text):
    with pytest.raises(InputError, match=f"job {text!r}: is no shape that PJM knows"):
        parse_shape(text)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("5x77:mesh", "385 nodes, and from 385 on a job must be a torus: write 5x77:torus"),
        ("385:noncont", "must be a torus"),
        ("48x36x49:torus", "84,672 nodes, but Fugaku takes at most 82,944"),
        ("0x2", "each at least 1"),
    ],
)
def test_jobs_that_pjm_refuses_are_refused(text, sentence):
    with pytest.raises(InputError, match=sentence):
        parse_shape(text)


@pytest.mark.parametrize(
    ("text", "shape", "rings"),
    [
        ("48x6x48:torus", (24, 2, 24, 2, 3, 2), "xzb"),
        ("24x12x32:torus", (12, 4, 16, 2, 3, 2), "b"),
        ("4x69x2:torus", (2, 23, 1, 2, 3, 2), "yb"),
        ("2x3x2", (1, 1, 1, 2, 3, 2), "b"),
        ("1x2x1", (1, 1, 1, 1, 2, 1), ""),
        ("1x1x1:torus", (1, 1, 1, 1, 1, 1), ""),
        ("5x8x7:mesh", (5, 4, 7, 1, 2, 1), ""),
        ("12", (6, 1, 1, 2, 1, 1), ""),
        ("4x6", (2, 2, 1, 2, 3, 1), "b"),
        ("48x2x2:mesh", (24, 1, 1, 2, 2, 2), ""),
    ],
)
def test_shapes_fold_to_units(text, shape, rings):
    torus = fold(parse_shape(text))
    assert torus.shape == shape
    assert "".join(axis for axis, wrap in zip("xyzabc", torus.wraps, strict=True) if wrap) == rings


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("8x8x8:torus", "8 nodes along y do not fold.*3 nodes wide there; 6 or 9 would do"),
        ("21x6x6", "21 nodes along x do not fold.*2 nodes wide there; 20 or 22 would do"),
        ("400", "400 nodes along x need 200 units in a row, but Fugaku has 24"),
        ("2x72x8:torus", "72 nodes along y need 24 units in a row, but Fugaku has 23"),
        ("8x1x64", "1 nodes along y do not fold.*3 nodes wide there; 3 would do"),
        ("1x1x384", "384 nodes along z need 192 units in a row, but Fugaku has 24"),
    ],
)
def test_what_does_not_fold_is_named_with_what_would(text, sentence):
    with pytest.raises(InputError, match=sentence):
        fold(parse_shape(text))


def assert_logical_rings_are_physical(job: JobShape) -> None:
    """Each logical dimension is a Hamiltonian ring of its two axes, one hop from node to node."""
    torus = fold(job)
    logical = all_coordinates(job.shape)
    places = fold_coordinates(job, logical)
    np.testing.assert_array_equal(np.sort(torus.numbers(places)), np.arange(job.nodes))
    np.testing.assert_array_equal(unfold_coordinates(job, places), logical)
    for dimension, size in enumerate(job.shape):
        following = logical.copy()
        following[:, dimension] = (following[:, dimension] + 1) % size
        hops = torus.distance(places, fold_coordinates(job, following))
        if torus.shape[dimension + 3] == 1 and not torus.wraps[dimension] and size > 2:
            hops = hops[logical[:, dimension] < size - 1]  # a line, which does not close
        np.testing.assert_array_equal(hops, min(size - 1, 1))


def test_the_original_job_is_a_torus_of_single_hops_in_all_three_dimensions():
    assert_logical_rings_are_physical(_ORIGINAL)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=3), st.booleans())
def test_small_jobs_fold_into_rings_or_lines_of_single_hops(shape, torus):
    job = JobShape(tuple(shape), torus or prod(shape) > 384)
    if job.nodes <= 384:
        assert_logical_rings_are_physical(job)


@pytest.mark.parametrize("y", range(1, 24))
def test_a_ring_closes_for_every_number_of_units_in_a_row(y):
    assert_logical_rings_are_physical(JobShape((2, 3 * y, 2), torus=True))


def test_the_fold_is_the_one_in_the_documentation():
    first = fold_coordinates(_ORIGINAL, np.array([[0, 0, 0], [23, 0, 0], [24, 0, 0], [47, 0, 0]]))
    np.testing.assert_array_equal(first[:, [0, 3]], [[0, 0], [23, 0], [23, 1], [0, 1]])
    second = fold_coordinates(_ORIGINAL, np.array([[0, i, 0] for i in range(6)]))
    np.testing.assert_array_equal(second[:, 1], [0, 1, 1, 1, 0, 0])
    np.testing.assert_array_equal(second[:, 4], [0, 0, 1, 2, 2, 1])


def test_coordinates_outside_of_the_job_are_named():
    with pytest.raises(InputError, match=r"\(0, 6, 0\): outside of job 48x6x48:torus"):
        fold_coordinates(_ORIGINAL, np.array([[0, 5, 0], [0, 6, 0]]))
    with pytest.raises(InputError, match=r"\(0, 2, 0, 0, 0, 0\): outside of the torus"):
        unfold_coordinates(_ORIGINAL, np.array([0, 2, 0, 0, 0, 0]))


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=3), st.integers(1, 4), st.integers(0, 99))
def test_a_rank_map_survives_its_file_and_its_torus_coordinates(tmp_path, shape, per_node, seed):
    job = JobShape(tuple(shape), torus=seed % 2 == 0)
    order = np.repeat(all_coordinates(job.shape), per_node, axis=0)
    ranks = np.random.default_rng(seed).permutation(order).tolist()
    rank_map = RankMap(job, tuple(map(tuple, ranks)), per_node)
    path = tmp_path / "map"
    write_vcoordfile(rank_map, path)
    assert read_vcoordfile(path, job, per_node) == rank_map
    places = rank_map.torus_coordinates()
    assert RankMap.from_torus(job, places, per_node) == rank_map


def test_the_original_job_in_mesh_order_has_the_lines_that_mpirun_reads(tmp_path):
    torus = fold(_ORIGINAL)
    places = torus.coordinates(np.arange(torus.nodes))
    rank_map = RankMap.from_torus(_ORIGINAL, places)
    path = tmp_path / "map"
    write_vcoordfile(rank_map, path)
    lines = path.read_text().splitlines()
    assert len(lines) == rank_map.ranks == 13_824
    # c changes fastest, then b, then a.
    assert lines[:6] == ["(0,0,0)", "(0,0,47)", "(0,5,0)", "(0,5,47)", "(0,4,0)", "(0,4,47)"]
    assert lines[6] == "(47,0,0)"
    read = read_vcoordfile(path, _ORIGINAL)
    np.testing.assert_array_equal(read.torus_coordinates(), places)


def test_four_ranks_of_a_node_write_its_coordinate_four_times(tmp_path):
    job = JobShape((2, 3, 2), torus=True)
    places = np.repeat(fold(job).coordinates(np.arange(12)), 4, axis=0)
    path = tmp_path / "map"
    write_vcoordfile(RankMap.from_torus(job, places, ranks_per_node=4), path)
    lines = path.read_text().splitlines()
    assert lines == [f"({x},{y},{z})" for x, y, z in all_coordinates((2, 3, 2)) for _ in range(4)]


def test_spaces_and_other_line_ends_are_read(tmp_path):
    path = tmp_path / "map"
    path.write_bytes(b" ( 0 ,1)\r\n(0, 0)")
    assert read_vcoordfile(path, JobShape((1, 2), False)).coordinates == ((0, 1), (0, 0))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("(0,0)\n0,1\n", "line 2: '0,1' is no coordinate"),
        ("(0,0)\n\n(0,1)\n", "line 2: '' is no coordinate"),
        ("(0,-1)\n", r"line 1: '\(0,-1\)' is no coordinate"),
        ("(0,0) core=12\n", r"line 1: '\(0,0\) core=12' is no coordinate"),
        ("(0,٣)\n", "line 1"),
        ("(0,0)\n(0,0)\n(0,3)\n", r"line 3: \(0, 3\) is outside of job 2x3:mesh"),
        ("(0,0)\n(1)\n", r"line 2: \(1,\) has 1 dimensions, but job 2x3:mesh has 2"),
        ("(0,0)\n(0,1)\n(0,0)\n(0,0)\n", r"line 4: the node at \(0, 0\) is full already"),
        ("(0,0)\n(0,1)\n", "map: has 2 lines, but job 2x3:mesh needs 12"),
        ("", "map: has 0 lines"),
        ("(0,0)\n(0,1)\n(0,2)\n(1,0)\n(1,1)\n(1,2)\n" * 2 + "(0,0)\n", "line 13"),
    ],
)
def test_a_wrong_rank_map_is_refused_with_its_line(tmp_path, text, sentence):
    path = tmp_path / "map"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=sentence):
        read_vcoordfile(path, JobShape((2, 3), torus=False), ranks_per_node=2)


def test_a_rank_map_that_is_no_text_or_no_file_is_refused(tmp_path):
    path = tmp_path / "map"
    path.write_bytes(bytes(range(128, 256)))
    with pytest.raises(InputError, match=r"line 1: .* is no coordinate"):
        read_vcoordfile(path, JobShape((1,), torus=False))
    with pytest.raises(InputError, match="none: cannot be read: No such file"):
        read_vcoordfile(tmp_path / "none", JobShape((1,), torus=False))


def test_a_rank_map_must_fill_its_job():
    job = JobShape((2, 1), torus=False)
    with pytest.raises(InputError, match="rank map of 1 ranks: job 2x1:mesh needs 2"):
        RankMap(job, ((0, 0),))
    with pytest.raises(InputError, match=r"rank 1: the node at \(0, 0\) is full already"):
        RankMap(job, ((0, 0), (0, 0)))
    with pytest.raises(InputError, match="ranks per node is 0"):
        RankMap(job, (), ranks_per_node=0)
