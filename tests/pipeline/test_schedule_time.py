"""Modelled times of pipeline schedules: rendezvous costs nothing, the bubble is the formula's."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pipeline_oracle import can_be_run, makespan_of_programs, schedules

from fugaku_jax.errors import InputError
from fugaku_jax.pipeline.check import check
from fugaku_jax.pipeline.duration import COSTS, bubble, formula_bubble, simulate
from fugaku_jax.pipeline.schedule import Op, Schedule, make_schedule

STAGES = range(2, 9)
MICRO_BATCHES = range(1, 21)


def costs(forward, backward_input, backward_weight):
    return {
        Op.FORWARD: forward,
        Op.BACKWARD: backward_input + backward_weight,
        Op.BACKWARD_INPUT: backward_input,
        Op.BACKWARD_WEIGHT: backward_weight,
    }


def test_a_timeline_worked_out_by_hand():
    """Stage 0: F0 . F1 B0 . B1; stage 1: . F0 B0 F1 B1 . where a backward takes five."""
    timeline = simulate(make_schedule("1f1b", 2, 2), costs(1, 3, 2))
    # F1 is sent in the tick of stage 1's B0, so stage 0 waits from 2 to 7.
    np.testing.assert_array_equal(timeline.start, [[0, 1, 1, 7, 12, 13], [0, 1, 2, 7, 8, 13]])
    np.testing.assert_array_equal(timeline.end, [[1, 1, 2, 12, 12, 18], [0, 2, 7, 8, 13, 13]])
    assert timeline.makespan == 18
    assert timeline.busy == (12, 12)
    assert timeline.idle_fraction == pytest.approx(1 / 3)


@pytest.mark.parametrize("stages", STAGES)
def test_gpipe_and_1f1b_take_3_times_m_plus_s_minus_1(stages):
    for kind, micro_batches in itertools.product(("gpipe", "1f1b"), MICRO_BATCHES):
        makespan = simulate(make_schedule(kind, stages, micro_batches)).makespan
        assert makespan == 3 * (micro_batches + stages - 1)


@pytest.mark.parametrize("stages", [1, *STAGES])
def test_the_bubble_and_the_idle_share_of_the_table_equal_the_formula(stages):
    for m in MICRO_BATCHES:
        ring = stages - 1
        cases = {
            ("gpipe", 1): ring / (m + ring),
            ("1f1b", 1): ring / (m + ring),
            ("zero_bubble", 1): ring / (3 * m + ring) if m >= stages else None,
        }
        for chunks in (2, 3):
            # Whether or not S divides M.
            share = ring / (chunks * m + ring) if m >= stages else None
            cases["interleaved", chunks] = share
        for (kind, chunks), known in cases.items():
            schedule = make_schedule(kind, stages, m, chunks)
            formula = formula_bubble(kind, stages, m, chunks)
            assert bubble(schedule) == pytest.approx(formula, abs=1e-12)
            assert np.mean(schedule.op == Op.IDLE) == pytest.approx(formula, abs=1e-12)
            assert known is None or formula == pytest.approx(known, abs=1e-12)


def test_zero_bubble_is_idle_less_than_1f1b():
    for stages, micro_batches in itertools.product(STAGES, MICRO_BATCHES):
        halved = bubble(make_schedule("zero_bubble", stages, micro_batches))
        assert halved < bubble(make_schedule("1f1b", stages, micro_batches))


@settings(max_examples=60, deadline=None)
@given(schedules(8, 20), st.integers(1, 9), st.integers(1, 9), st.data())
def test_rendezvous_costs_nothing_whatever_the_work_costs(schedule, forward, backward, data):
    # ZB-H1 needs a weight gradient that is no dearer than the input gradient.
    price = costs(forward, backward, data.draw(st.integers(1, backward)))
    waiting = simulate(schedule, price)
    assert waiting.makespan == simulate(schedule, price, rendezvous=False).makespan
    assert waiting.busy == simulate(schedule, price, rendezvous=False).busy


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 8), st.integers(0, 12), st.integers(1, 9), st.integers(1, 9), st.data())
def test_zero_bubble_is_idle_as_long_as_the_paper_says(stages, more, forward, backward, data):
    """(S − 1)(F + B − W) in all, for M ≥ S and a W that fits into the gaps (Table 2)."""
    micro_batches = stages + more
    weight = data.draw(st.integers(1, min(forward, backward)))
    price = costs(forward, backward, weight)
    makespan = simulate(make_schedule("zero_bubble", stages, micro_batches), price).makespan
    work = micro_batches * (forward + backward + weight)
    assert makespan == work + (stages - 1) * (forward + backward - weight)


@settings(max_examples=80, deadline=None)
@given(schedules(5, 8), st.integers(1, 5), st.integers(1, 5), st.integers(1, 5), st.data())
def test_programs_that_meet_at_exchanges_do_not_lock_up_and_take_the_modelled_time(
    schedule, forward, backward, weight, data
):
    """Also tables that are less well arranged, in which stages do wait for each other."""
    for _ in range(data.draw(st.integers(0, 6))):
        stage = data.draw(st.integers(0, schedule.stages - 1))
        tick = data.draw(st.integers(0, schedule.ticks - 2))
        tables = {}
        for name in ("op", "micro_batch", "chunk"):
            tables[name] = getattr(schedule, name).copy()
            tables[name][stage, [tick, tick + 1]] = tables[name][stage, [tick + 1, tick]]
        other = replace(schedule, **tables)
        schedule = other if can_be_run(other) else schedule
    price = costs(forward, backward, weight)
    makespan = simulate(schedule, price).makespan
    assert makespan == makespan_of_programs(schedule, price)
    assert makespan >= simulate(schedule, price, rendezvous=False).makespan


def test_stages_wait_where_ticks_are_arranged_badly():
    """Stage 1 takes the third forward before its first backward, and so begins it one later."""
    op = [[1, 1, 1, 0, 2, 0, 2, 0, 2], [0, 1, 0, 2, 1, 2, 1, 2, 0]]
    micro_batch = [[0, 1, 2, 0, 0, 0, 1, 0, 2], [0, 0, 0, 0, 1, 1, 2, 2, 0]]
    tables = (np.array(table, np.int32) for table in (op, micro_batch, np.zeros((2, 9))))
    schedule = Schedule("by hand", 2, 3, 1, *tables)
    check(schedule)
    assert simulate(schedule).makespan == 13
    assert simulate(schedule, rendezvous=False).makespan == 12


def test_an_unknown_kind_has_no_formula():
    with pytest.raises(InputError, match="'wave', for which there is no formula"):
        formula_bubble("wave", 2, 4)


def test_a_whole_backward_costs_as_much_as_its_halves():
    assert COSTS[Op.BACKWARD] == COSTS[Op.BACKWARD_INPUT] + COSTS[Op.BACKWARD_WEIGHT]
