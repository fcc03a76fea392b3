"""The torus agrees with a graph that is built node by node and searched by breadth."""

from collections import deque
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fugaku_jax.errors import InputError
from fugaku_jax.tofu.topology import FUGAKU, Torus

_ORIGINAL = Torus((24, 2, 24, 2, 3, 2), (True, False, True, False, True, False))
_SMALL = (
    Torus((1, 1, 1, 2, 3, 2), (False, False, False, False, True, False)),
    Torus((4, 1, 5, 2, 3, 1), (True, True, True, False, True, False)),
    Torus((3, 2, 2, 1, 3, 2), (False, True, False, True, False, True)),
    Torus((6, 3, 1, 1, 1, 2), (True, False, True, True, True, True)),
)

sizes = st.tuples(*(st.integers(1, most) for most in (5, 4, 5, 2, 3, 2)))
wraps = st.tuples(*(st.booleans() for _ in range(6)))


def build_graph(torus: Torus) -> dict[tuple[int, ...], set[tuple[int, ...]]]:
    """Oracle: the neighbours of each coordinate, from the definition of a torus alone."""
    graph = {place: set() for place in product(*map(range, torus.shape))}
    for place in graph:
        for axis, (size, wrap) in enumerate(zip(torus.shape, torus.wraps, strict=True)):
            beside = place[axis] + 1
            if beside == size and wrap:
                beside = 0
            if beside < size and beside != place[axis]:
                other = (*place[:axis], beside, *place[axis + 1 :])
                graph[place].add(other)
                graph[other].add(place)
    return graph


def search(graph: dict, start: tuple[int, ...]) -> dict[tuple[int, ...], int]:
    """Oracle: hops from a start to every coordinate."""
    hops, queue = {start: 0}, deque([start])
    while queue:
        place = queue.popleft()
        for other in graph[place] - hops.keys():
            hops[other] = hops[place] + 1
            queue.append(other)
    return hops


@settings(max_examples=30, deadline=None)
@given(sizes, wraps)
def test_numbers_count_the_nodes_row_by_row_and_coordinates_invert_them(shape, wraps):
    torus = Torus(shape, wraps)
    places = np.array(list(product(*map(range, torus.shape))))
    np.testing.assert_array_equal(torus.numbers(places), np.arange(torus.nodes))
    np.testing.assert_array_equal(torus.coordinates(np.arange(torus.nodes)), places)


@settings(max_examples=15, deadline=None)
@given(sizes, wraps)
def test_neighbours_and_links_are_the_edges_of_the_graph(shape, wraps):
    torus = Torus(shape, wraps)
    number = {place: i for i, place in enumerate(product(*map(range, torus.shape)))}
    graph = build_graph(torus)
    degrees = []
    for place, others in graph.items():
        neighbours = torus.neighbours(number[place])
        assert len(neighbours) == len(set(neighbours))
        assert set(neighbours) == {number[other] for other in others}
        degrees.append(len(neighbours))
    assert max(degrees) <= 10
    links = np.concatenate([torus.links(axis) for axis in range(6)])
    edges = {frozenset((number[a], number[b])) for a, others in graph.items() for b in others}
    assert len(links) == len(edges)
    assert set(map(frozenset, links.tolist())) == edges


@pytest.mark.parametrize("torus", _SMALL)
def test_distance_is_what_a_search_finds(torus):
    graph = build_graph(torus)
    places = np.array(list(graph))
    for start in graph:
        hops = search(graph, start)
        found = torus.distance(np.broadcast_to(start, places.shape), places)
        np.testing.assert_array_equal(found, [hops[place] for place in graph])


@settings(max_examples=30, deadline=None)
@given(sizes, wraps, st.data())
def test_walking_the_steps_leads_from_source_to_target(shape, wraps, data):
    torus = Torus(shape, wraps)
    number = st.integers(0, torus.nodes - 1)
    source, target = torus.coordinates(np.array([data.draw(number), data.draw(number)]))
    here = source.copy()
    steps = torus.steps(source, target)
    for axis in range(6):
        for _ in range(abs(steps[axis])):
            before = int(torus.numbers(here))
            here[axis] = (here[axis] + np.sign(steps[axis])) % torus.shape[axis]
            assert int(torus.numbers(here)) in torus.neighbours(before)
    np.testing.assert_array_equal(here, target)


def test_half_way_round_a_ring_the_step_is_positive():
    torus = Torus((6, 1, 1, 2, 1, 1), (True, False, False, False, False, False))
    source, target = np.array([4, 0, 0, 1, 0, 0]), np.array([1, 0, 0, 0, 0, 0])
    np.testing.assert_array_equal(torus.steps(source, target), [3, 0, 0, -1, 0, 0])
    np.testing.assert_array_equal(torus.steps(target, source), [3, 0, 0, 1, 0, 0])


def test_two_nodes_on_an_axis_have_one_link_whether_it_wraps_or_not():
    for wrap in (False, True):
        torus = Torus((2, 1, 1, 1, 1, 1), (wrap, wrap, wrap, wrap, wrap, wrap))
        assert torus.links(0).tolist() == [[0, 1]]
        assert torus.neighbours(0) == (1,)
        assert torus.neighbours(1) == (0,)


def test_neighbours_come_axis_by_axis_with_the_lower_first():
    torus = Torus((1, 1, 3, 1, 3, 2), (False, False, False, False, True, False))
    # Node 6 is (0, 0, 1, 0, 0, 0): z below and above, b round the ring and above, then c.
    assert torus.neighbours(6) == (0, 12, 10, 8, 7)


def test_the_whole_machine_has_ten_links_a_node():
    assert FUGAKU.nodes == 158_976
    assert FUGAKU.unit == 12
    assert len(FUGAKU.neighbours(0)) == 10
    links = [len(FUGAKU.links(axis)) for axis in range(6)]
    assert links == [FUGAKU.nodes * share // 2 for share in (2, 2, 2, 1, 2, 1)]


def test_the_original_job_has_a_link_for_each_pair_of_nodes_one_hop_apart():
    places = _ORIGINAL.coordinates(np.arange(13_824))
    links = np.concatenate([_ORIGINAL.links(axis) for axis in range(6)])
    assert len(links) == 13_824 * (2 + 1 + 2 + 1 + 2 + 1) // 2
    assert len(np.unique(np.sort(links, axis=1), axis=0)) == len(links)
    ends = places[links]
    assert (_ORIGINAL.distance(ends[:, 0], ends[:, 1]) == 1).all()
    # A torus looks the same from everywhere: the mean distance of its axes, added up.
    assert _ORIGINAL.distance(places[:1], places).mean() == pytest.approx(6 + 6 + 1.5 + 2 / 3)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Torus((1, 1, 1), (False,) * 3), "six entries"),
        (lambda: Torus((1, 0, 1, 1, 1, 1), (False,) * 6), "axis y is 0"),
        (lambda: Torus((1, 1, 1, 1, 4, 1), (False,) * 6), "axis b is 4, but a unit has 3"),
        (lambda: FUGAKU.coordinates(np.array([3, 158_976])), "node 158976"),
        (lambda: FUGAKU.neighbours(-1), "node -1"),
        (lambda: FUGAKU.numbers(np.array([0, 23, 0, 0, 0, 0])), r"\(0, 23, 0, 0, 0, 0\)"),
    ],
)
def test_what_is_outside_of_the_torus_is_named(make, sentence):
    with pytest.raises(InputError, match=sentence):
        make()
