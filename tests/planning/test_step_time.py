"""The step-time model: what it counts is what the model and the compiled step have, and adds up."""

import math
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from fugaku_jax.layout.assignment import without_torus
from fugaku_jax.layout.mesh import assign_axes
from fugaku_jax.models.size import flops_per_token, parameter_count
from fugaku_jax.pipeline.duration import simulate
from fugaku_jax.pipeline.schedule import Op, make_schedule
from fugaku_jax.planning.assumptions import OURS
from fugaku_jax.planning.links import StepLinks
from fugaku_jax.planning.mesh_plan import plan_run
from fugaku_jax.planning.rates import device_rates
from fugaku_jax.planning.step_time import model_step, simulated, spanned, step_messages
from fugaku_jax.planning.step_work import FP32, layers_of_stages, step_work, update_messages

SCHEDULES = [("1f1b", 1), ("gpipe", 1), ("zero_bubble", 1), ("interleaved", 5)]


def degrees_of(config) -> dict[str, int]:
    mesh = config.mesh
    kinds = ("tensor", "context", "data", "pipeline")
    return {kind: getattr(mesh, kind) for kind in kinds}


@pytest.fixture(scope="module")
def original(recipes):
    return recipes["fugaku_llm_13b"]


@pytest.fixture(scope="module")
def step_of(fugaku):
    """The modelled step of a configuration whose degrees are given."""

    def step(config, machine=fugaku, **options):
        degrees = degrees_of(config)
        assignment = assign_axes(config.mesh, math.prod(degrees.values()))
        links = StepLinks(machine, assignment, config.mesh.collective)
        rates = device_rates(machine, config.mesh.local, OURS)
        return model_step(config, degrees, rates, links, **options)

    return step


def test_all_devices_together_do_the_models_operations(original):
    """Counted another way: six a weight and token, and attention's products over the square."""
    one = replace(original, mesh=replace(original.mesh, tensor=1, pipeline=1, data=1, shape=""))
    work = step_work(one, degrees_of(one))
    phases = [work.layer[phase] for phase in ("forward", "backward")]
    layers = original.model.n_layers
    total = layers * sum(phase.operations for phase in phases) + work.head.operations
    # Of attention they count the seen half, but seven products in place of six.
    attention = 12 * layers * original.model.sequence_length**2 * original.model.d_model
    rows = one.training.batch_size // one.training.micro_batches
    tokens = rows * original.model.sequence_length
    expected = flops_per_token(original.model) * tokens - attention * rows * (1 - 7 / 12)
    assert total == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("weights", ["replicated", "zero1", "fsdp"])
@pytest.mark.parametrize("name", ["fugaku_llm_13b", "llama_125m", "gpt_350m"])
def test_a_device_holds_the_weights_and_the_state_that_it_is_said_to_hold(recipes, name, weights):
    config = recipes[name]
    mesh = replace(config.mesh, shape="", tensor=2, pipeline=2, data=4, layers=(), weights=weights)
    batch = replace(config.training, batch_size=16, micro_batches=2)
    config = replace(config, mesh=replace(mesh, recompute_stages=0), training=batch)
    planned = plan_run(config, 16)
    work = step_work(config, degrees_of(config))
    layers = max(map(sum, layers_of_stages(config, 2)))
    _, held, state = update_messages(config, work, layers)
    # Small arrays that replicas do not divide stay whole.
    assert FP32 * held == pytest.approx(planned.parameter_bytes, rel=0.02)
    assert 2 * FP32 * state == pytest.approx(planned.optimizer_bytes, rel=0.02)


def test_the_whole_model_on_one_device_is_counted_to_the_last_weight(recipes):
    for config in recipes.values():
        one = replace(config, mesh=replace(config.mesh, tensor=1, pipeline=1, data=1, context=1))
        work = step_work(one, degrees_of(one))
        counted = config.model.n_layers * work.layer_parameters + work.shared_parameters
        assert counted == parameter_count(config.model)


def test_the_breakdown_adds_up_to_the_step(original, step_of):
    for (schedule, chunks), sequence, weights in product(
        SCHEDULES, (False, True), ("replicated", "zero1", "fsdp")
    ):
        mesh = replace(
            original.mesh,
            schedule=schedule,
            chunks=chunks,
            sequence_parallel=sequence,
            weights=weights,
            recompute_stages=0,
        )
        step = step_of(replace(original, mesh=mesh))
        assert sum(step.breakdown.values()) == pytest.approx(step.seconds)
        assert min(step.breakdown.values()) >= 0
        assert 0 < step.mfu < 1


@pytest.mark.parametrize(("schedule", "chunks"), SCHEDULES)
@pytest.mark.parametrize("micro_batches", [8, 21])
def test_of_like_stages_the_formula_of_a_schedule_is_its_table(
    original, schedule, chunks, micro_batches
):
    config = replace(
        original,
        training=replace(original.training, micro_batches=micro_batches, batch_size=micro_batches),
        mesh=replace(original.mesh, schedule=schedule, chunks=chunks),
    )
    ops = make_schedule(schedule, 8, micro_batches, chunks).op
    cost = {op: np.full((8, chunks), 1.0) for op in Op if op != Op.IDLE and (ops == op).any()}
    if Op.BACKWARD in cost:
        cost[Op.BACKWARD] *= 2
    found = spanned(config, cost)
    assert found == pytest.approx(simulated(config, 8, cost).makespan, rel=1e-9)


def test_of_unlike_stages_the_formula_is_within_an_eighth(original, step_of):
    # The original's first four stages recompute, and its last has the loss.
    for schedule, chunks in SCHEDULES:
        mesh = replace(original.mesh, schedule=schedule, chunks=chunks, collective="flat")
        config = replace(original, mesh=mesh)
        exact, formula = (step_of(config, exact=each).seconds for each in (True, False))
        assert formula == pytest.approx(exact, rel=0.125)


def test_a_slow_stage_delays_the_others_as_the_longest_path_through_the_table_says():
    table = make_schedule("1f1b", 3, 5)
    random = np.random.default_rng(0)
    costs = {op: random.uniform(1, 3, (3, 1)) for op in (Op.FORWARD, Op.BACKWARD)}
    found = simulate(table, costs, rendezvous=False)
    done: dict[tuple, float] = {}  # oracle: what each piece of work waits for, one by one
    for tick in range(table.ticks):
        for stage in range(3):
            op, m = Op(table.op[stage, tick]), int(table.micro_batch[stage, tick])
            if op == Op.IDLE:
                continue
            needs = [done.get((stage, "free"), 0.0)]
            if op == Op.FORWARD and stage:
                needs.append(done[stage - 1, Op.FORWARD, m])
            if op == Op.BACKWARD and stage < 2:
                needs.append(done[stage + 1, Op.BACKWARD, m])
            end = max(needs) + costs[op][stage, 0]
            done[stage, op, m] = done[stage, "free"] = end
    assert found.makespan == pytest.approx(max(done.values()))


def test_what_a_step_sends_along_tensor_axes_is_what_its_layers_need(original):
    messages = {(m.kind, m.over): m for m in step_messages(original, degrees_of(original))}
    sums = messages["all-reduce", ("tensor",)]
    # Two there, two on the way back and, where a stage recomputes, two again: of five layers and
    # seven micro-batches. The compiled step has sums of 42,467,328 bytes in its loops over these.
    assert (sums.bytes, sums.count) == (42_467_328, 6 * 5 * 7)
    gradients = messages["all-reduce", ("data", "context")]
    assert gradients.bytes == 1_288_075_392  # the bytes of parameters that plan.py prints


def test_sharing_positions_sends_as_much_and_keeps_less(original):
    shared = replace(original, mesh=replace(original.mesh, sequence_parallel=True))
    plain, cut = (step_work(c, degrees_of(c)).layer["forward"] for c in (original, shared))
    assert sum(m.count for m in cut.messages) == 2 * sum(m.count for m in plain.messages)
    assert cut.stream_bytes < plain.stream_bytes


def test_a_faster_machine_and_half_precision_take_less(original, step_of, successor):
    fp32 = step_of(original).seconds
    half = replace(original, training=replace(original.training, precision="fp16"))
    assert step_of(half).seconds < 0.75 * fp32
    assert step_of(original, machine=successor).seconds < 0.5 * fp32


def test_a_mesh_that_is_no_torus_has_messages_too(recipes, cluster):
    config = recipes["gpt_125m"]
    mesh = replace(config.mesh, data=4, tensor=2)
    batch = replace(config.training, batch_size=8, micro_batches=1)
    config = replace(config, mesh=mesh, training=batch)
    links = StepLinks(cluster, without_torus(degrees_of(config)), "flat")
    rates = device_rates(cluster, 1, OURS)
    step = model_step(config, degrees_of(config), rates, links)
    assert step.breakdown["tensor"] > 0
    assert step.breakdown["gradients"] > 0
