"""Messages on links are counted as walking each message alone counts them, and shared max-min."""

import math
from collections import Counter
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from round_machine import network

from fugaku_jax.errors import InputError
from fugaku_jax.tofu.links import NetworkMesh, Pattern, Traffic, torus_link_loads, traffic
from fugaku_jax.tofu.topology import AXES, FUGAKU, Torus

sizes = st.tuples(*(st.integers(1, most) for most in (5, 3, 4, 2, 3, 2)))
wraps = st.tuples(*(st.booleans() for _ in range(6)))


def way(shape, wraps, source, target) -> list[tuple]:
    """Oracle: the links of a message, each (node it leaves, axis, direction), hop by hop."""
    at, links = list(source), []
    for axis, (size, ring) in enumerate(zip(shape, wraps, strict=True)):
        there = (target[axis] - at[axis]) % size if ring and size > 2 else target[axis] - at[axis]
        step = 1 if (there <= size / 2 if ring and size > 2 else there > 0) else -1
        while at[axis] != target[axis]:
            links.append((tuple(at), axis, step))
            at[axis] = (at[axis] + step) % size
    return links


def last_to_end(ways: list[list], capacities: dict) -> float:
    """Oracle: when the last of messages of size 1 ends, by max-min fair shares, event by event."""
    left = {message: 1.0 for message, links in enumerate(ways) if links}
    now = 0.0
    while left:
        rates, free, open_ = {}, dict(capacities), set(left)
        while open_:  # fill the tightest link's messages, and take what they get from the others
            users = Counter(link for message in open_ for link in ways[message])
            tightest = min(users, key=lambda link: free[link] / users[link])
            rate = free[tightest] / users[tightest]
            for message in [m for m in open_ if tightest in ways[m]]:
                rates[message] = rate
                open_.remove(message)
                for link in ways[message]:
                    free[link] -= rate
        step = min(left[message] / rates[message] for message in left)
        now += step
        left = {m: x for m in left if (x := left[m] - rates[m] * step) > 1e-12}
    return now


@settings(max_examples=25, deadline=None)
@given(sizes, wraps, st.randoms(use_true_random=False))
def test_links_carry_what_each_message_alone_leaves_on_them(shape, wraps, random):
    torus = Torus(shape, wraps)
    places = list(product(*map(range, shape)))
    pairs = [(random.choice(places), random.choice(places)) for _ in range(40)]
    ends = [torus.numbers(np.array(each)) for each in zip(*pairs, strict=True)]
    found = torus_link_loads(torus, *ends)
    expected = np.zeros_like(found)
    for source, target in pairs:
        for node, axis, step in way(shape, wraps, source, target):
            expected[torus.numbers(np.array(node)), axis, 0 if step == 1 else 1] += 1
    np.testing.assert_array_equal(found, expected)
    assert found.sum() == torus.distance(*(np.array(e) for e in zip(*pairs, strict=True))).sum()


@settings(max_examples=25, deadline=None)
@given(sizes, wraps, st.randoms(use_true_random=False))
def test_by_max_min_fair_shares_the_last_of_equal_messages_ends_with_the_busiest_link(
    shape, wraps, random
):
    places = list(product(*map(range, shape)))
    ways = [way(shape, wraps, random.choice(places), random.choice(places)) for _ in range(12)]
    capacities = {link: random.choice((1.0, 2.0, 5.0)) for links in ways for link in links}
    users = Counter(link for links in ways for link in links)
    busiest = max((n / capacities[link] for link, n in users.items()), default=0.0)
    assert math.isclose(last_to_end(ways, capacities), busiest, rel_tol=1e-9, abs_tol=1e-9)


@st.composite
def placements(draw) -> tuple[NetworkMesh, tuple[str, ...]]:
    """A mesh on a torus, some of whose axes are split, and the axes of its groups."""
    shape = draw(st.sampled_from([(4, 2, 6, 2, 3, 2), (6, 1, 4, 1, 3, 2), (8, 3, 1, 2, 1, 1)]))
    parts = []
    for axis, size in zip(AXES, shape, strict=True):
        factor = draw(st.sampled_from([d for d in range(1, size + 1) if size % d == 0]))
        if 1 < factor < size:
            parts += [(f"{axis}0", factor), (f"{axis}1", size // factor)]
        else:
            parts.append((axis, size))
    axes = draw(st.permutations([name for name, _ in parts]))[: draw(st.integers(1, len(parts)))]
    whole = draw(st.sampled_from([shape, (9, 9, 9, 2, 3, 2)]))
    return NetworkMesh(network(shape=whole), tuple(parts)), tuple(axes)


@settings(max_examples=30, deadline=None)
@given(placements(), st.sampled_from(["shift", "exchange", "fold"]), st.sampled_from([1, 2, -1]))
def test_a_pattern_in_all_groups_loads_links_as_all_its_messages_on_the_whole_torus(
    placed, kind, distance
):
    mesh, axes = placed
    pattern = Pattern(kind, abs(distance) if kind == "exchange" else distance)
    size = mesh.size(axes)
    if kind == "exchange" and size < 2 * pattern.distance:
        return
    targets = pattern.targets(size)
    shape, whole = mesh.shape, mesh.network.shape
    ring = [a == b for a, b in zip(shape, whole, strict=True)]
    names, counts = zip(*mesh.parts, strict=True)
    groups: dict = {}
    for place in product(*map(range, counts)):
        digits = dict(zip(names, place, strict=True))
        node = [0] * 6
        for name, count in mesh.parts:
            node[AXES.index(name[0])] = node[AXES.index(name[0])] * count + digits[name]
        rank = 0
        for name in axes:
            rank = rank * dict(mesh.parts)[name] + digits[name]
        rest = tuple(at for name, at in digits.items() if name not in axes)
        groups.setdefault(rest, {})[rank] = tuple(node)
    users: Counter = Counter()
    longest = 0
    for group in groups.values():
        for rank, node in group.items():
            if targets[rank] not in (-1, rank):
                links = way(shape, ring, node, group[targets[rank]])
                longest = max(longest, len(links))
                users.update(links)
    expected: dict = {}
    for (_, axis, step), count in users.items():
        link = AXES[axis] + ("+" if step == 1 else "-")
        expected[link] = max(expected.get(link, 0), count)
    found = traffic(mesh, axes, pattern)
    assert {link: n for link, n in found.loads if link not in ("in", "out")} == expected
    assert found.hops == max(longest - 1, 0)


def test_the_flat_ring_of_a_split_axis_crosses_the_links_of_all_its_groups():
    mesh = NetworkMesh(network(shape=FUGAKU.shape), (("x0", 3), ("x1", 8)))
    assert traffic(mesh, ("x0",), Pattern("shift")) == Traffic(
        (("x+", 8.0), ("out", 1.0), ("in", 1.0)), hops=7
    )
    line = traffic(mesh, ("x1",), Pattern("shift"))  # 7 links on, and 7 back to the first
    assert dict(line.loads) == {"x+": 1, "x-": 1, "out": 1, "in": 1}


@pytest.mark.parametrize("axes", [("a", "b", "c"), ("x", "b"), ("z", "y", "x")])
def test_a_snake_goes_from_neighbour_to_neighbour(axes):
    shape = (4, 6, 6, 2, 3, 2)  # even along the first of the axes, so that the snake comes back
    mesh = NetworkMesh(network(shape=shape), tuple(zip(AXES, shape, strict=True)))
    found = traffic(mesh, axes, Pattern("shift", order="snake"))
    assert found.hops == 0
    assert max(n for _, n in found.loads) == 1


@pytest.mark.parametrize("size", [2, 3, 5, 8, 12, 13])
def test_folds_and_exchanges_bring_what_each_has_to_all(size):
    power = 1 << (size.bit_length() - 1)
    rounds = [
        Pattern("fold"),
        *(Pattern("exchange", 1 << b) for b in range(power.bit_length() - 1)),
    ]
    has = [{place} for place in range(size)]
    for pattern in (*rounds, Pattern("unfold")):
        sent = [set(each) for each in has]
        for source, target in enumerate(pattern.targets(size)):
            if target >= 0:
                has[target] |= sent[source]
    assert all(each == set(range(size)) for each in has)


def test_a_fat_tree_counts_what_leaves_a_leaf_switch():
    tree = network("fat_tree", (12,), nodes_per_leaf=4, oversubscription=2.0)
    mesh = NetworkMesh(tree, (("x", 3), ("y", 4)))
    within, across = (traffic(mesh, (axis,), Pattern("shift")) for axis in "yx")
    assert dict(within.loads) == {"out": 1, "in": 1}
    assert dict(across.loads) == {"out": 1, "in": 1, "up": 4, "down": 4}
    assert (within.hops, across.hops) == (0, 2)


def test_all_messages_pass_a_bus_and_devices_of_a_node_share_its_links():
    bus = NetworkMesh(network("bus", (4,)), (("x", 2), ("y", 2), ("k", 3)))
    assert traffic(bus, ("x",), Pattern("shift")).loads == (("bus", 12),)
    torus = NetworkMesh(network(shape=FUGAKU.shape), (("x", 4), ("k", 3)))
    assert dict(traffic(torus, ("x", "k"), Pattern("shift")).loads)["out"] == 3


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ((("x", 25),), "25x1x1x1x1x1: has 25 nodes along x, but the machine has 24"),
        ((("x0", 5), ("x1", 5)), "has 25 nodes along x"),
        ((("q", 2),), "mesh axis q=2: must be one of x y z a b c k"),
        ((("x", 0),), "mesh axis x=0: .*at least 1 device"),
    ],
)
def test_a_mesh_that_the_machine_has_not_is_refused(parts, said):
    with pytest.raises(InputError, match=said):
        NetworkMesh(network(shape=FUGAKU.shape), parts)
