"""Routes keep every link busy, and chunks hold each element once."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fugaku_jax.collectives.routes import (
    LARGEST_CHUNK,
    cut,
    links_of,
    plan_routes,
)

SHAPES = [(2, 3, 2), (2, 3), (2, 4), (3, 3), (24, 2, 3), (2, 2), (4,), (2,), (24, 24, 2, 3, 2)]

sizes = st.lists(st.sampled_from([1, 2, 3, 4, 6]), min_size=1, max_size=3).map(tuple)
sizes = sizes.filter(lambda shape: math.prod(shape) > 1)


def bound(shape):
    """What each link of a node carries if all carry the same: no plan can do better."""
    links, devices = sum(map(links_of, shape)), math.prod(shape)
    return (devices - 1) / devices / links


def busiest_link(shape):
    """Which share of an array the busiest link carries each way in a reduce-scatter."""
    carried = [Fraction(0)] * len(shape)
    for route in plan_routes(shape):
        left = route.share
        for axis in route.axes:
            n = shape[axis]
            carried[axis] += left * (n - 1) / n / links_of(n)  # the route back has its own half
            left /= n
    return max(carried)


def test_no_link_of_a_tofu_unit_carries_more_than_a_quarter_each_way():
    assert busiest_link((2, 3, 2)) <= Fraction(1, 4)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_busiest_link_is_within_a_slice_of_the_best_that_linear_programming_finds(shape):
    optimize = pytest.importorskip("scipy.optimize")
    orders = list(itertools.permutations([i for i, size in enumerate(shape) if size > 1]))
    loads = np.zeros((len(shape), len(orders)))
    for column, order in enumerate(orders):
        left = 1.0
        for axis in order:
            n = shape[axis]
            loads[axis, column] = left * (n - 1) / n / links_of(n)
            left /= n
    # The least t such that no link's load is above t, and the shares add up to 1.
    found = optimize.linprog(
        [*[0] * len(orders), 1],
        A_ub=np.hstack([loads, -np.ones((len(shape), 1))]),
        b_ub=np.zeros(len(shape)),
        A_eq=[[*[1] * len(orders), 0]],
        b_eq=[1],
    )
    best = found.fun
    assert bound(shape) - 1e-9 <= best <= busiest_link(shape) + 1e-9
    assert busiest_link(shape) <= best + 1 / 96  # half a slice along one link


@settings(max_examples=60, deadline=None)
@given(sizes)
def test_shares_are_a_whole_and_both_directions_carry_the_same(shape):
    routes = plan_routes(shape)
    long = [axis for axis, size in enumerate(shape) if size > 1]
    assert sum(route.share for route in routes) == 1
    for route in routes:
        assert sorted(route.axes) == long
    if any(size > 2 for size in shape):
        assert sum(route.share for route in routes if route.backward) == Fraction(1, 2)


@settings(max_examples=100, deadline=None)
@given(sizes, st.integers(0, 10**7), st.sampled_from([1, 2, 4, 48]))
def test_chunks_hold_each_element_once_and_are_no_larger_than_they_may_be(shape, length, size):
    routes = plan_routes(shape)
    chunks = cut(routes, length, size)
    runs = sorted((chunk.start, chunk.start + chunk.length) for chunk in chunks)
    assert runs[0][0] == 0
    assert runs[-1][1] == length
    assert all(end == start for (_, end), (start, _) in itertools.pairwise(runs))
    assert max(chunk.length for chunk in chunks) * size <= LARGEST_CHUNK + size
    assert {chunk.route for chunk in chunks} <= set(range(len(routes)))
