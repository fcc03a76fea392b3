"""Groups are small, and every device ends with the whole sum."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fugaku_jax.collectives.phases import LARGEST_GROUP, make_plan


def named(*sizes: int):
    return tuple(zip("xyzabc", sizes, strict=False))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 300), min_size=1, max_size=2))
def test_sums_over_long_axes_reach_every_device_in_groups_that_are_small(sizes):
    """The phases of one axis after another carried out in NumPy, against the sum taken at once."""
    names = [name for name, size in named(*sizes) if size > 1]
    shape = [size for size in sizes if size > 1]
    plan = make_plan(named(*sizes))
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
    plan = make_plan((("x0", 3), ("y", 2), ("z", 24), ("a", 2)))
    assert [(phase.axes, phase.groups) for phase in plan.phases] == [
        (("x0",), None),
        (("y",), None),
        (("z",), None),
        (("a",), None),
    ]


def test_an_axis_longer_than_a_group_may_be_is_cut_into_digits():
    plan = make_plan((("x", 288),))
    assert [(digit.size, digit.stride) for digit in plan.digits] == [(6, 48), (48, 1)]
    first, second = plan.phases
    assert first.groups[0] == tuple(range(0, 288, 48))
    assert second.groups[1] == tuple(range(48, 96))
    # 97 is prime: there is no smaller group that divides it.
    assert make_plan((("x", 97),)).sizes == (97,)


def test_few_devices_meet_in_one_phase_and_axes_of_one_device_in_none():
    (phase,) = make_plan(named(2, 1, 3)).phases
    assert (phase.axes, phase.size) == (("x", "z"), 6)
    assert make_plan(named(1, 1)).phases == ()
