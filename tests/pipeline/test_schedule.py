"""Tables of pipeline schedules are those of the papers, and their values find room in slots."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pipeline_oracle import (
    BACKWARDS,
    can_be_run,
    entries,
    gradients_by_table,
    gradients_directly,
    schedules,
)

from fugaku_jax.errors import InputError
from fugaku_jax.pipeline.schedule import (
    Op,
    edge_colours,
    edges_in_use,
    make_schedule,
)
from fugaku_jax.pipeline.slots import plan_slots

NAMES = ("input", "gradient", "kept", "residual", "weight")
SIZES = list(itertools.product(range(1, 6), (1, 2, 3, 5, 8, 11)))


def order(schedule, stage):
    """The work of a stage as pairs of a letter and a micro-batch, with its chunk if several."""
    letters = {
        Op.FORWARD: "F",
        Op.BACKWARD: "B",
        Op.BACKWARD_INPUT: "B",
        Op.BACKWARD_WEIGHT: "W",
    }
    work = (entry for entry in entries(schedule) if entry[1] == stage)
    return [(letters[op], m, k // schedule.stages) for _, _, op, m, k in work]


def test_a_table_of_1f1b_reads_as_drawn_in_the_paper():
    schedule = make_schedule("1f1b", 3, 4)
    done = [" ".join(f"{letter}{m}" for letter, m, _ in order(schedule, s)) for s in range(3)]
    assert done == [
        "F0 F1 F2 B0 F3 B1 B2 B3",
        "F0 F1 B0 F2 B1 F3 B2 B3",
        "F0 B0 F1 B1 F2 B2 F3 B3",
    ]


@pytest.mark.parametrize("stages", [2, 3, 4])
@pytest.mark.parametrize("rounds", [1, 2, 3])
@pytest.mark.parametrize("chunks", [2, 3])
def test_interleaved_stages_do_their_work_in_the_order_of_megatron(stages, rounds, chunks):
    """`forward_backward_pipelining_with_interleaving` of Megatron-LM, written out."""
    micro_batches = stages * rounds
    schedule = make_schedule("interleaved", stages, micro_batches, chunks)
    laps = list(itertools.product(range(rounds), range(chunks), range(stages)))
    forward = [("F", lap * stages + i, chunk) for lap, chunk, i in laps]
    backward = [("B", lap * stages + i, chunks - 1 - chunk) for lap, chunk, i in laps]
    for stage in range(stages):
        warm_up = min(2 * (stages - stage - 1) + (chunks - 1) * stages, len(forward))
        pairs = zip(forward[warm_up:], backward, strict=False)
        tail = backward[len(forward) - warm_up :]
        want = forward[:warm_up] + [work for pair in pairs for work in pair] + tail
        assert order(schedule, stage) == want


@pytest.mark.parametrize(("stages", "micro_batches"), SIZES)
def test_zero_bubble_is_1f1b_with_weight_gradients_in_between(stages, micro_batches):
    halved = make_schedule("zero_bubble", stages, micro_batches)
    whole = make_schedule("1f1b", stages, micro_batches)
    for stage in range(stages):
        without = [work for work in order(halved, stage) if work[0] != "W"]
        assert without == order(whole, stage)


@settings(max_examples=60, deadline=None)
@given(schedules())
def test_every_schedule_can_be_run_and_goes_backward_in_ascending_order(schedule):
    assert can_be_run(schedule)
    for wanted in (BACKWARDS, (Op.BACKWARD_WEIGHT,)):
        for k in range(schedule.stages * schedule.chunks):
            done = [m for _, _, op, m, at in entries(schedule) if at == k and op in wanted]
            assert done == sorted(done)


@pytest.mark.parametrize(("stages", "micro_batches"), SIZES)
def test_what_is_in_flight_follows_the_formula_of_each_kind(stages, micro_batches):
    def high_water(kind, chunks=1):
        return plan_slots(make_schedule(kind, stages, micro_batches, chunks)).residual_high_water

    s = range(stages)
    assert high_water("gpipe") == (micro_batches,) * stages
    assert high_water("1f1b") == tuple(min(micro_batches, stages - each) for each in s)
    # ZB-H1: at each stage what 1F1B has at the first.
    assert high_water("zero_bubble") == (min(micro_batches, stages),) * stages
    zero_bubble = plan_slots(make_schedule("zero_bubble", stages, micro_batches))
    assert zero_bubble.weight_high_water == tuple(min(micro_batches, each + 1) for each in s)
    if micro_batches % stages == 0:
        for chunks in (2, 3):
            most = [(chunks - 1) * stages + 2 * (stages - each) - 1 for each in s]
            want = tuple(min(chunks * micro_batches, each) for each in most)
            assert high_water("interleaved", chunks) == want


@settings(max_examples=60, deadline=None)
@given(schedules(), st.data())
def test_slots_are_as_many_as_values_ever_wait_at_once(schedule, data):
    recompute = tuple(data.draw(st.booleans()) for _ in range(schedule.stages))
    plan = plan_slots(schedule, recompute)
    last = schedule.stages * schedule.chunks - 1
    waiting = {name: [set() for _ in recompute] for name in NAMES}
    most = {name: [0] * schedule.stages for name in waiting}
    for _, group in itertools.groupby(entries(schedule), lambda entry: entry[0]):
        arriving = []
        for _, s, op, m, k in group:
            held = waiting["kept" if recompute[s] else "residual"][s]
            if op == Op.FORWARD:
                waiting["input"][s].discard((m, k))
                if k > 0 or not recompute[s]:
                    held.add((m, k))
                if k < last:
                    arriving.append(("input", (s + 1) % schedule.stages, (m, k + 1)))
            if op in BACKWARDS:
                waiting["gradient"][s].discard((m, k))
                if k > 0:
                    arriving.append(("gradient", (s - 1) % schedule.stages, (m, k - 1)))
            if op == Op.BACKWARD_INPUT:
                waiting["weight"][s].add((m, k))
            for name in waiting:
                most[name][s] = max(most[name][s], len(waiting[name][s]))
            if op in (Op.BACKWARD, Op.BACKWARD_WEIGHT):
                waiting["weight"][s].discard((m, k))
                held.discard((m, k))
        for name, s, value in arriving:
            waiting[name][s].add(value)
            most[name][s] = max(most[name][s], len(waiting[name][s]))
    assert plan.input_high_water == tuple(most["input"])
    assert plan.gradient_high_water == tuple(most["gradient"])
    assert plan.kept_input_high_water == tuple(most["kept"])
    assert plan.residual_high_water == tuple(most["residual"])
    assert plan.weight_high_water == tuple(most["weight"])
    assert plan.n_input_slots == max(most["input"])
    assert plan.n_gradient_slots == max(most["gradient"])
    assert plan.n_kept_input_slots == max(most["kept"])
    assert plan.n_residual_slots == max(most["residual"])
    assert plan.n_weight_slots == max(most["weight"])


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(schedules(), st.data())
def test_gradients_by_table_and_slots_equal_the_chain_rule(schedule, data):
    """To the last bit, for they are added in the same order."""
    recompute = tuple(data.draw(st.booleans()) for _ in range(schedule.stages))
    random = np.random.default_rng(0)
    weights = random.normal(size=schedule.stages * schedule.chunks)
    tokens, targets = random.normal(size=(2, schedule.micro_batches))
    got = gradients_by_table(schedule, plan_slots(schedule, recompute), weights, tokens, targets)
    np.testing.assert_array_equal(got, gradients_directly(weights, tokens, targets))


@settings(max_examples=40, deadline=None)
@given(schedules())
def test_an_edge_is_in_use_when_a_message_passes_it(schedule):
    want = np.zeros(schedule.op.shape, bool)
    last = schedule.stages * schedule.chunks - 1
    for tick, s, op, _, k in entries(schedule):
        edge = s if op == Op.FORWARD else (s - 1) % schedule.stages
        if (op == Op.FORWARD and k < last) or (op in BACKWARDS and k > 0):
            want[0 if schedule.stages == 2 else edge, tick] = True
    np.testing.assert_array_equal(edges_in_use(schedule), want)


@pytest.mark.parametrize("wrap", [False, True])
@pytest.mark.parametrize("stages", range(1, 10))
def test_edges_of_a_colour_share_no_stage_and_no_colour_could_be_spared(stages, wrap):
    colours = edge_colours(stages, wrap)
    wrap = wrap and stages > 2
    assert sorted(itertools.chain(*colours)) == list(range(stages if wrap else stages - 1))
    for group in colours:
        ends = [stage for edge in group for stage in {edge, (edge + 1) % stages}]
        assert len(ends) == len(set(ends))
    at_a_stage = min(stages - 1, 2)
    assert len(colours) == at_a_stage + (wrap and stages % 2 == 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("2f2b", 2, 4), "'2f2b', but it must be one of gpipe, 1f1b, interleaved, zero_bubble"),
        (("1f1b", 0, 4), "stages is 0"),
        (("1f1b", 2, 0), "micro_batches is 0"),
        (("interleaved", 2, 4, -1), "chunks is -1"),
        (("interleaved", 2, 4), "chunks is 1 under the schedule interleaved"),
        (("zero_bubble", 2, 4, 2), "chunks is 2 under the schedule zero_bubble"),
    ],
)
def test_wrong_sizes_are_refused_by_name(arguments, message):
    with pytest.raises(InputError, match=message):
        make_schedule(*arguments)


def test_recompute_has_an_entry_for_each_stage():
    with pytest.raises(InputError, match=r"recompute has 3 entries.* 4 stages"):
        plan_slots(make_schedule("1f1b", 4, 4), (True, True, False))
    with pytest.raises(InputError, match="micro_batches is 0"):
        make_schedule("gpipe", 2, 0)
