"""Groups are legal, each device ends with its shard, and a node's devices part ways."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fugaku_jax.collectives.phases import LARGEST_GROUP, Plan, make_plan

sizes = st.lists(st.sampled_from([1, 2, 3, 4, 6, 8]), min_size=1, max_size=3)


def named(*sizes: int):
    return tuple(zip("xyzabc", sizes, strict=False))


def roads(plan: Plan) -> list[list[str]]:
    """Per local device the axes that it takes, with their group size and a minus if backward."""
    return [
        [
            f"{'-' * step.backward}{plan.digits[step.digits[0]].axis}{phase.size}"
            for phase, step in zip(plan.phases, steps, strict=True)
        ]
        for steps in plan.steps
    ]


@settings(max_examples=60, deadline=None)
@given(sizes, st.integers(2, 5))
def test_turned_groups_have_one_size_and_hold_each_device_once(sizes, local):
    plan = make_plan(named(*sizes), "turned", ("k", local))
    for phase in plan.phases:
        assert {len(group) for group in phase.groups} == {phase.size}
        members = sorted(member for group in phase.groups for member in group)
        assert members == list(range(np.prod(sizes) * local))
    assert np.prod([phase.size for phase in plan.phases]) == np.prod(sizes)


@settings(max_examples=60, deadline=None)
@given(sizes, st.integers(2, 5))
def test_turned_phases_leave_each_device_the_sum_of_its_own_shard(sizes, local):
    """The phases carried out in NumPy, against sums taken at once."""
    axes = [(name, size) for name, size in named(*sizes) if size > 1]
    plan = make_plan(named(*sizes), "turned", ("k", local))
    shape = [size for _, size in axes]
    count = int(np.prod(shape))
    data = np.random.default_rng(0).integers(0, 1000, (count * local, count))
    buckets = data.reshape(-1, *(phase.size for phase in plan.phases))
    for phase in plan.phases:
        left = np.empty_like(buckets[:, 0])
        for group in phase.groups:
            left[list(group)] = buckets[list(group)].sum(0)
        buckets = left
    for device in range(count * local):
        *coordinates, k = np.unravel_index(device, (*shape, local))
        bucket = 0
        for phase, step in zip(plan.phases, plan.steps[k], strict=True):
            digit = plan.digits[step.digits[0]]
            place = coordinates[[name for name, _ in axes].index(digit.axis)]
            place = place // digit.stride % digit.size
            bucket = bucket * phase.size + (phase.size - 1 - place if step.backward else place)
        assert buckets[device] == data[k::local, bucket].sum()


@settings(max_examples=60, deadline=None)
@given(sizes, st.integers(2, 5))
def test_local_devices_spread_evenly_over_the_axes_of_a_phase(sizes, local):
    for column in zip(*roads(make_plan(named(*sizes), "turned", ("k", local))), strict=True):
        taken = [road.lstrip("-") for road in column]
        counts = [taken.count(road) for road in set(taken)]
        assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize(
    ("sizes", "local", "expected"),
    [
        ((4, 4), 2, [["x4", "y4"], ["y4", "x4"]]),
        ((4, 4), 3, [["x4", "y4"], ["y4", "x4"], ["-x4", "-y4"]]),
        ((4, 1, 8), 2, [["x4", "z4", "z2"], ["z4", "x4", "-z2"]]),
        ((2, 3), 2, [["y3", "x2"], ["-y3", "-x2"]]),
        ((2, 2, 3), 2, [["x2", "y2", "z3"], ["y2", "x2", "-z3"]]),
        ((5,), 2, [["x5"], ["-x5"]]),
        ((1, 1), 2, [[], []]),
    ],
)
def test_roads_of_small_meshes(sizes, local, expected):
    assert roads(make_plan(named(*sizes), "turned", ("k", local))) == expected


def test_the_data_axes_of_the_original_turn_on_three_axes_with_four_core_groups():
    # 288 replicas: 3 of x (the other 8 are stages), y, z and c.
    plan = make_plan((("x", 3), ("y", 2), ("z", 24), ("c", 2)), "turned", ("k", 4))
    assert [phase.size for phase in plan.phases] == [2, 2, 2, 3, 3, 4]
    assert [road[0] for road in roads(plan)] == ["y2", "z2", "c2", "-y2"]


def test_a_factored_axis_gives_up_its_nearest_neighbours_first():
    plan = make_plan(named(2, 8), "turned", ("k", 2))
    strides = {digit.size: digit.stride for digit in plan.digits if digit.axis == "y"}
    assert strides == {2: 1, 4: 2}
    # Local device 1 begins along y: pairs of neighbours, 2 indices apart (y, then k).
    assert [group for group in plan.phases[0].groups if group[0] == 1] == [(1, 3)]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 300), min_size=1, max_size=2), st.sampled_from(["flat", "bucket"]))
def test_sums_over_long_axes_reach_every_device_in_groups_that_are_small(sizes, algorithm):
    """The phases of one axis after another carried out in NumPy, against the sum taken at once."""
    names = [name for name, size in named(*sizes) if size > 1]
    shape = [size for size in sizes if size > 1]
    plan = make_plan(named(*sizes), algorithm)
    summands = np.random.default_rng(0).integers(0, 1000, shape)
    sums = summands
    for phase in plan.phases:
        is_prime = all(phase.size % n for n in range(2, LARGEST_GROUP + 1))
        assert phase.size <= LARGEST_GROUP or is_prime
        if phase.groups is None:
            along = tuple(names.index(axis) for axis in phase.axes)
            sums = np.broadcast_to(sums.sum(along, keepdims=True), shape)
        else:
            (axis,) = phase.axes
            line = np.moveaxis(sums.copy(), names.index(axis), 0)
            for group in phase.groups:
                line[list(group)] = line[list(group)].sum(0)
            sums = np.moveaxis(line, 0, names.index(axis))
    assert (sums == summands.sum()).all()


def test_the_data_axes_of_the_original_are_walked_one_by_one_without_asking():
    plan = make_plan((("x0", 3), ("y", 2), ("z", 24), ("a", 2)), "flat")
    assert [(phase.axes, phase.groups) for phase in plan.phases] == [
        (("x0",), None),
        (("y",), None),
        (("z",), None),
        (("a",), None),
    ]


def test_an_axis_longer_than_a_group_may_be_is_cut_into_digits():
    plan = make_plan((("x", 288),), "flat")
    assert [(digit.size, digit.stride) for digit in plan.digits] == [(6, 48), (48, 1)]
    first, second = plan.phases
    assert first.groups[0] == tuple(range(0, 288, 48))
    assert second.groups[1] == tuple(range(48, 96))
    # 97 is prime, and so is 53: there is no smaller group that divides them.
    assert make_plan((("x", 97),), "bucket").sizes == (97,)
    assert make_plan((("x", 106),), "turned", ("k", 2)).sizes == (2, 53)


def test_bucket_is_an_axis_a_phase_and_flat_is_one_phase():
    axes = named(2, 1, 3)
    for algorithm, local in (("bucket", ("k", 2)), ("turned", ("k", 1)), ("turned", None)):
        plan = make_plan(axes, algorithm, local)
        assert [phase.axes for phase in plan.phases] == [("x",), ("z",)]
        assert [phase.groups for phase in plan.phases] == [None, None]
        assert plan.local_axis is None
    (phase,) = make_plan(axes, "flat").phases
    assert (phase.axes, phase.size) == (("x", "z"), 6)
    assert make_plan(named(1, 1), "flat").phases == ()
