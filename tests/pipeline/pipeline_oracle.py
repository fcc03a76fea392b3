"""What pipeline schedules are compared with: slow, plain ways to run one, and random tables."""

import numpy as np
from hypothesis import strategies as st

from fugaku_jax.pipeline.schedule import Op, Schedule, edge_colours, edges_in_use, make_schedule

BACKWARDS = (Op.BACKWARD, Op.BACKWARD_INPUT)


@st.composite
def schedules(draw, max_stages=6, max_micro_batches=12):
    """A table of any kind."""
    kind = draw(st.sampled_from(["gpipe", "1f1b", "interleaved", "zero_bubble"]))
    chunks = draw(st.integers(2, 4)) if kind == "interleaved" else 1
    stages = draw(st.integers(1, max_stages))
    return make_schedule(kind, stages, draw(st.integers(1, max_micro_batches)), chunks)


def entries(schedule: Schedule):
    """All work as (tick, stage, op, micro-batch, virtual stage), tick by tick."""
    for tick in range(schedule.op.shape[1]):
        for stage in range(schedule.stages):
            op = Op(schedule.op[stage, tick])
            if op != Op.IDLE:
                m, chunk = schedule.micro_batch[stage, tick], schedule.chunk[stage, tick]
                yield tick, stage, op, int(m), int(chunk) * schedule.stages + stage


def can_be_run(schedule: Schedule) -> bool:
    """Whether each work is done once and finds what it needs, by trying it."""
    last = schedule.stages * schedule.chunks - 1
    there = {("input", m, 0): -1 for m in range(schedule.micro_batches)}
    done = set()
    for tick, _, op, m, k in entries(schedule):
        half = "weight" if op == Op.BACKWARD_WEIGHT else "forward" if op == Op.FORWARD else "back"
        needs = {
            "forward": [("input", m, k)],
            "back": [("computed", m, k)] + [("gradient", m, k)] * (k < last),
            "weight": [("half", m, k)],
        }[half]
        if (half, m, k) in done or any(there.get(need, tick) >= tick for need in needs):
            return False
        done.add((half, m, k))
        if op == Op.BACKWARD:
            if ("weight", m, k) in done:
                return False
            done.add(("weight", m, k))
        leaves = {
            "forward": [("computed", m, k), ("input", m, k + 1)],
            "back": [("gradient", m, k - 1), ("half", m, k)],
            "weight": [],
        }[half]
        there |= dict.fromkeys(leaves, tick)
    return len(done) == 3 * schedule.micro_batches * (last + 1)


def gradients_by_table(schedule: Schedule, plan, weights, tokens, targets) -> np.ndarray:
    """Train y = sin(w·x) at every virtual stage by the table, all values in the plan's slots."""
    stages, last = schedule.stages, len(weights) - 1
    inputs = np.full((stages, plan.n_input_slots), np.nan)
    gradients = np.full((stages, plan.n_gradient_slots), np.nan)
    residuals = np.full((stages, plan.n_residual_slots), np.nan)
    kept = np.full((stages, plan.n_kept_input_slots), np.nan)
    halves = np.full((stages, plan.n_weight_slots), np.nan)
    total, messages, now = np.zeros(len(weights)), [], -1
    for tick, s, op, m, k in entries(schedule):
        if tick > now:
            for buffer, place, value in messages:
                buffer[place] = value
            messages, now = [], tick
        at = (s, tick)
        if op == Op.FORWARD:
            x = tokens[m] if k == 0 else inputs[s, plan.input_slots[at]]
            if not plan.recompute[s]:
                residuals[s, plan.residual_slots[at]] = x
            elif k > 0:
                kept[s, plan.kept_input_slots[at]] = x
            if k < last:
                to = (s + 1) % stages
                place = (to, plan.forward_arrival[to, tick])
                messages.append((inputs, place, np.sin(weights[k] * x)))
            continue
        if not plan.recompute[s]:
            x = residuals[s, plan.residual_slots[at]]
        else:
            x = tokens[m] if k == 0 else kept[s, plan.kept_input_slots[at]]
        if op == Op.BACKWARD_WEIGHT:
            g = halves[s, plan.weight_slots[at]]
        else:
            g = targets[m] if k == last else gradients[s, plan.gradient_slots[at]]
        if op == Op.BACKWARD_INPUT:
            halves[s, plan.weight_slots[at]] = g
        else:
            total[k] += g * np.cos(weights[k] * x) * x
        if op in BACKWARDS and k > 0:
            to = (s - 1) % stages
            place = (to, plan.gradient_arrival[to, tick])
            messages.append((gradients, place, g * np.cos(weights[k] * x) * weights[k]))
    return total


def gradients_directly(weights, tokens, targets) -> np.ndarray:
    """The same by the chain rule, one micro-batch after the other."""
    total = np.zeros(len(weights))
    for token, g in zip(tokens, targets, strict=True):
        x = [token]
        for w in weights:
            x.append(np.sin(w * x[-1]))
        for k in reversed(range(len(weights))):
            total[k] += g * np.cos(weights[k] * x[k]) * x[k]
            g = g * np.cos(weights[k] * x[k]) * weights[k]
    return total


def makespan_of_programs(schedule: Schedule, costs) -> float | None:
    """Run each stage's work and meetings as a program of its own; None if they lock up.

    Ticks only make the programs: while they run, a stage waits for nothing but its partners.
    """
    stages, exchanged = schedule.stages, edges_in_use(schedule)
    programs = [[] for _ in range(stages)]
    for tick in range(schedule.op.shape[1]):
        for stage in range(stages):
            programs[stage].append(("work", costs.get(Op(schedule.op[stage, tick]), 0)))
        for group in edge_colours(stages, bool(exchanged[-1].any())):
            for edge in (edge for edge in group if exchanged[edge, tick]):
                for stage in {edge, (edge + 1) % stages}:
                    programs[stage].append(("meet", edge, tick))
    clock, at, moved = np.zeros(stages), [0] * stages, True
    while moved:
        moved = False
        for stage, program in enumerate(programs):
            if at[stage] == len(program):
                continue
            step = program[at[stage]]
            if step[0] == "work":
                clock[stage] += step[1]
                at[stage] += 1
                moved = True
                continue
            pair = sorted({step[1], (step[1] + 1) % stages})
            if all(at[s] < len(programs[s]) and programs[s][at[s]] == step for s in pair):
                clock[pair] = clock[pair].max()
                for s in pair:
                    at[s] += 1
                moved = True
    finished = all(at[s] == len(programs[s]) for s in range(stages))
    return float(clock.max()) if finished else None
