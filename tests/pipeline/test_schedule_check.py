"""The check of pipeline schedules refuses what cannot be run, and nothing else."""

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pipeline_oracle import can_be_run, schedules

from fugaku_jax.errors import InputError
from fugaku_jax.pipeline.check import check
from fugaku_jax.pipeline.schedule import Op, make_schedule
from fugaku_jax.pipeline.slots import plan_slots


def changed(schedule, **entries):
    """A copy with some entries changed: `op={(stage, tick): value}`."""
    tables = {name: getattr(schedule, name).copy() for name in ("op", "micro_batch", "chunk")}
    for name, values in entries.items():
        for place, value in values.items():
            tables[name][place] = value
    return replace(schedule, **tables)


def refused(schedule, plan=None):
    try:
        check(schedule, plan)
    except InputError:
        return True
    return False


@settings(max_examples=40, deadline=None)
@given(schedules(), st.data())
def test_every_schedule_is_accepted(schedule, data):
    recompute = tuple(data.draw(st.booleans()) for _ in range(schedule.stages))
    check(schedule, plan_slots(schedule, recompute))


@settings(max_examples=150, deadline=None)
@given(schedules(max_stages=4, max_micro_batches=5), st.data())
def test_a_table_with_two_entries_exchanged_is_accepted_just_if_it_can_be_run(schedule, data):
    stage = data.draw(st.integers(0, schedule.stages - 1))
    first = data.draw(st.integers(0, schedule.ticks - 2))
    second = data.draw(st.integers(first + 1, min(first + 3, schedule.ticks - 1)))
    tables = {}
    for name in ("op", "micro_batch", "chunk"):
        tables[name] = getattr(schedule, name).copy()
        tables[name][stage, [first, second]] = tables[name][stage, [second, first]]
    other = replace(schedule, **tables)
    assert refused(other) is not can_be_run(other)


@settings(max_examples=100, deadline=None)
@given(schedules(max_stages=4, max_micro_batches=5), st.data())
def test_a_table_with_one_entry_altered_is_refused(schedule, data):
    places = np.argwhere(schedule.op != Op.IDLE)
    place = tuple(places[data.draw(st.integers(0, len(places) - 1))])
    name = data.draw(st.sampled_from(["op", "micro_batch", "chunk"]))
    bound = {"op": 5, "micro_batch": schedule.micro_batches, "chunk": schedule.chunks}[name]
    value = data.draw(st.integers(-1, bound))
    assume(value != getattr(schedule, name)[place])
    other = changed(schedule, **{name: {place: value}})
    assert refused(other)


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(schedules(max_stages=4, max_micro_batches=5), st.booleans(), st.data())
def test_a_plan_with_one_slot_altered_is_refused(schedule, recompute, data):
    plan = plan_slots(schedule, (recompute,) * schedule.stages)
    tables = {
        field.name: value
        for field in fields(plan)
        if isinstance(value := getattr(plan, field.name), np.ndarray) and (value >= 0).any()
    }
    assume(tables)
    name = data.draw(st.sampled_from(sorted(tables)))
    table = tables[name].copy()
    places = np.argwhere(table >= 0)
    place = tuple(places[data.draw(st.integers(0, len(places) - 1))])
    value = data.draw(st.integers(-1, int(table.max()) + 1))
    assume(value != table[place])
    table[place] = value
    assert refused(schedule, replace(plan, **{name: table}))


def test_a_high_water_that_is_too_high_is_refused():
    schedule = make_schedule("1f1b", 3, 5)
    plan = replace(plan_slots(schedule), residual_high_water=(3, 3, 1))
    with pytest.raises(InputError, match=r"Stage 1: the residual high water is 3, but .* 2 values"):
        check(schedule, plan)


def test_a_slot_that_is_written_where_nothing_arrives_is_refused():
    schedule = make_schedule("1f1b", 2, 2)
    plan = plan_slots(schedule)
    arrival = plan.forward_arrival.copy()
    arrival[0, 0] = 0
    with pytest.raises(
        InputError, match="Stage 0, tick 0 has a slot for an activation that does not"
    ):
        check(schedule, replace(plan, forward_arrival=arrival))


# Of two stages and two micro-batches, stage 0: F0 . F1 B0 . B1; stage 1: . F0 B0 F1 B1 .
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"op": {(0, 2): 0}}, r"Stage 0: FORWARD of micro-batch 1 in chunk 0 is done 0 times"),
        ({"op": {(0, 1): 1}}, r"Stage 0: FORWARD of micro-batch 0 in chunk 0 is done 2 times"),
        ({"op": {(1, 4): 3}}, r"BACKWARD_WEIGHT of micro-batch 1 in chunk 0 is done 0 times.* 1 "),
        ({"op": {(1, 4): 7}}, r"Stage 1, tick 4: op is 7, but it must be in 0…4"),
        ({"chunk": {(1, 4): 1}}, r"Stage 1, tick 4: chunk is 1, but it must be in 0…0"),
        (
            {"op": {(1, 0): 1, (1, 1): 0}},
            r"Stage 1, tick 0: FORWARD of micro-batch 0 .* is there from tick 1 on",
        ),
        (
            {"op": {(0, 2): 2, (0, 3): 1}, "micro_batch": {(0, 2): 0, (0, 3): 1}},
            r"Stage 1, tick 3: FORWARD of micro-batch 1 .* from tick 4 on",
        ),
    ],
)
def test_a_refusal_says_what_is_wrong_where(change, message):
    with pytest.raises(InputError, match=message):
        check(changed(make_schedule("1f1b", 2, 2), **change))
