"""Modelled collectives: known figures, bounds that hold, and what must not change them."""

import math

import fluid
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from round_machine import Way, machine

from fugaku_jax.collectives.routes import plan_routes
from fugaku_jax.errors import InputError
from fugaku_jax.tofu.network import CollectiveTime, collective_seconds

UNIT = (("a", 2), ("b", 3), ("c", 2))
NAMED = ("ring", "snake", "bucket", "halving")
KINDS = ("all-reduce", "reduce-scatter", "all-gather")
# Half of a buffer begins with b, in both directions, a quarter each with a and c.
UNIT_WAYS = (
    *(
        Way(1 / 8, order, backward)
        for order in ((1, 0, 2), (1, 2, 0))
        for backward in (False, True)
    ),
    *(Way(1 / 4, order) for order in ((0, 2, 1), (2, 0, 1))),
)


def unit(**fields):
    return machine("torus", (1, 1, 1, 2, 3, 2), **fields)


def modelled(machine, parts, kind, algorithm, nbytes=1.0, **fields) -> CollectiveTime:
    axes = tuple(name for name, _ in parts)
    return collective_seconds(machine, parts, axes, kind, nbytes, algorithm, **fields)


def test_a_flat_ring_carries_eleven_twelfths_of_a_unit_where_several_ways_carry_a_quarter():
    ring = modelled(unit(), UNIT, "reduce-scatter", "ring", nbytes=12.0)
    assert math.isclose(ring.seconds, 11)
    assert math.isclose(ring.busiest_bytes, 11)
    ways = modelled(unit(), UNIT, "reduce-scatter", UNIT_WAYS, nbytes=12.0, chunks=10**9)
    # b: of a half 2/3 over two links, of the rest (a quarter each, halved twice) the same share.
    assert math.isclose(ways.seconds, 12 * (1 / 2 * 2 / 3 / 2 + 2 * 1 / 16 * 2 / 3), rel_tol=1e-6)
    assert ways.busiest_bytes <= 12 / 4
    assert 3.6 < ring.seconds / ways.seconds < 11 / 12 / (11 / 12 / 4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_ring_along_one_axis_takes_its_textbook_time(kind):
    rates = {
        "link_bytes_per_second": 5.0,
        "latency_seconds": 3.0,
        "reduction_bytes_per_second": 7.0,
    }
    found = modelled(machine("torus", (8, 1, 1, 1, 1, 1), **rates), (("x", 8),), kind, "ring", 80.0)
    rounds = 14 if kind == "all-reduce" else 7
    assert math.isclose(found.transfer_seconds, rounds * 10 / 5)
    assert math.isclose(found.latency_seconds, rounds * 3)
    assert math.isclose(found.adding_seconds, 0 if kind == "all-gather" else 7 * 10 / 7)
    assert math.isclose(
        found.seconds, found.transfer_seconds + found.latency_seconds + found.adding_seconds
    )


@pytest.mark.parametrize("kind", KINDS)
def test_both_directions_of_a_ring_take_half_its_time_and_of_a_line_all_of_it(kind):
    both = Way(1 / 2, (0,)), Way(1 / 2, (0,), backward=True)
    for whole, faster in ((6, 2), (9, 1)):
        torus = machine("torus", (whole, 1, 1, 1, 1, 1))
        one = modelled(torus, (("x", 6),), kind, "ring")
        two = modelled(torus, (("x", 6),), kind, both, chunks=10**9)
        assert math.isclose(one.seconds / two.seconds, faster, rel_tol=1e-6)


@pytest.mark.parametrize("sizes", [(2, 3, 2), (2, 4), (3, 3), (24, 24), (4, 8, 2), (3, 2, 24)])
def test_several_ways_take_what_fluids_take_if_they_have_enough_chunks(sizes):
    routes = plan_routes(sizes)
    shape = (*sizes, *(1,) * (6 - len(sizes)))
    parts = tuple(zip("xyz", sizes, strict=False))
    # With one chunk links wait for each other, which the model leaves out.
    for chunks, more in ((8, 0.06), (4, 0.12), (1, 0.7)):
        total = len(routes) * chunks
        found = modelled(machine("torus", shape), parts, "all-reduce", routes, chunks=total).seconds
        expected = fluid.all_reduce(sizes, routes, chunks)
        assert found * 0.98 <= expected <= found * (1 + more), chunks


def test_a_message_of_several_links_takes_more_time_and_shares_them():
    torus = machine("torus", (24, 1, 1, 1, 1, 1), latency_seconds=10.0, hop_seconds=1.0)
    parts = ("x0", 3), ("x1", 8)
    far = collective_seconds(torus, parts, ("x0",), "send", 6.0)
    near = collective_seconds(torus, parts, ("x1",), "send", 6.0)
    assert far.seconds == 10 + 7 * 1 + 8 * 6  # eight groups share every link on the way
    assert near.seconds == 10 + 6 * 1 + 6  # the last of a group sends seven links back, all free


def test_a_node_injects_no_more_than_it_can():
    ways = tuple(
        Way(1 / 6, tuple((start + i) % 3 for i in range(3)), backward)
        for start in range(3)
        for backward in (False, True)
    )
    parts = ("x", 4), ("y", 4), ("z", 4)
    free = modelled(machine("torus", (4, 4, 4, 1, 1, 1)), parts, "all-reduce", ways)
    for fields in ({"injection_bytes_per_second": 3.0}, {"interfaces": 3}):
        bound = modelled(machine("torus", (4, 4, 4, 1, 1, 1), **fields), parts, "all-reduce", ways)
        assert math.isclose(bound.transfer_seconds, 2 * free.transfer_seconds)  # six links, three
        assert bound.busiest in ("in", "out")
        assert math.isclose(bound.bound_seconds, 2 * free.bound_seconds)


shapes = st.tuples(*(st.integers(1, most) for most in (5, 3, 4, 2, 3, 2)))


@settings(max_examples=40, deadline=None)
@given(shapes, st.sampled_from(KINDS), st.randoms(use_true_random=False), st.integers(1, 3))
def test_no_algorithm_is_faster_than_the_bound(shape, kind, random, local):
    parts = (*zip("xyzabc", shape, strict=True), ("k", local))
    axes = tuple(random.sample("xyzabc", random.randint(1, 6)))
    most = 7, 7, 7, 2, 3, 2
    whole = tuple(random.choice(sizes) for sizes in zip(shape, most, strict=True))
    orders = [tuple(random.sample(range(len(axes)), len(axes))) for _ in range(4)]
    ways = tuple(Way(1 / 4, order, backward=i % 2 == 1) for i, order in enumerate(orders))
    for network in (machine("torus", whole), machine("bus", (4000,))):
        for algorithm in (*NAMED, ways):
            found = collective_seconds(network, parts, axes, kind, 1e6, algorithm)
            assert found.seconds >= found.bound_seconds * (1 - 1e-9)
            assert (found.seconds == 0) == (found.busiest == "") == (found.bound_seconds == 0)


@pytest.mark.parametrize("algorithm", [*NAMED, UNIT_WAYS])
def test_an_all_reduce_takes_as_long_as_its_halves_and_bytes_count_in_proportion(algorithm):
    parts = tuple((name, size) for name, size in UNIT)
    if algorithm == "halving":  # where it needs no fold, which is not in both halves
        parts = ("a", 2), ("c", 2)
    whole, scatter, gather = (modelled(unit(), parts, kind, algorithm, 5.0) for kind in KINDS)
    assert math.isclose(whole.transfer_seconds, scatter.transfer_seconds + gather.transfer_seconds)
    twice = modelled(unit(), parts, "all-reduce", algorithm, 10.0)
    assert math.isclose(twice.seconds, 2 * whole.seconds)
    assert math.isclose(twice.busiest_bytes, 2 * whole.busiest_bytes)


def test_devices_of_a_node_sum_in_its_memory_first_and_share_its_links():
    torus = machine("torus", (4, 1, 1, 1, 1, 1), reduction_bytes_per_second=10.0)
    parts = ("x", 4), ("k", 2)
    together = collective_seconds(torus, parts, ("x", "k"), "all-reduce", 80.0)
    apart = collective_seconds(torus, parts, ("x",), "all-reduce", 80.0)
    assert together.local_seconds == 2 * 40 / 10  # half of it there, and back
    assert math.isclose(together.transfer_seconds, 2 * 3 / 4 * 80)  # two halves on one link
    assert math.isclose(apart.transfer_seconds, 2 * together.transfer_seconds)
    alone = collective_seconds(torus, parts, ("k",), "all-reduce", 80.0)
    assert alone.seconds == alone.local_seconds == together.local_seconds


def test_adding_is_hidden_behind_links_that_are_slower_and_not_behind_faster_ones():
    slow, fast = (unit(reduction_bytes_per_second=rate) for rate in (1.0, 100.0))
    for chosen, adding in ((slow, 11 / 12), (fast, 0.0)):
        found = modelled(chosen, UNIT, "reduce-scatter", UNIT_WAYS, chunks=10**9)
        assert math.isclose(found.seconds, max(adding, found.busiest_bytes), rel_tol=1e-6)


def test_every_pair_exchanges_once_in_an_all_to_all():
    bus = machine("bus", (6,))
    found = modelled(bus, (("x", 6),), "all-to-all", "ring", 6.0)
    assert math.isclose(found.seconds, 6 * 5)  # 30 messages of 1 byte, one after the other
    ring = modelled(machine("torus", (6, 1, 1, 1, 1, 1)), (("x", 6),), "all-to-all", "ring", 6.0)
    assert math.isclose(ring.seconds, 1 + 2 + 3 + 2 + 1)


def test_an_oversubscribed_leaf_switch_slows_what_crosses_it():
    parts = ("x", 4), ("y", 4)
    for oversubscription, seconds in ((1.0, 1.0), (4.0, 4.0)):
        tree = machine("fat_tree", (16,), nodes_per_leaf=4, oversubscription=oversubscription)
        across, within = (collective_seconds(tree, parts, (axis,), "send", 1.0) for axis in "xy")
        assert (across.seconds, within.seconds) == (seconds, 1.0)


def test_an_axis_that_the_mesh_has_not_is_named():
    with pytest.raises(InputError, match="axis 'q': the mesh has a, b, c"):
        collective_seconds(unit(), UNIT, ("q",), "all-reduce", 1.0)
