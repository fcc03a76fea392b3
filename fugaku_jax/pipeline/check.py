"""Whether a pipeline schedule can be run: one check for the table and for its slots."""

from typing import TypeAlias

import numpy as np

from fugaku_jax.errors import InputError
from fugaku_jax.pipeline.schedule import Op, Schedule, activations_sent, gradients_sent
from fugaku_jax.pipeline.slots import Slots, plan_slots

_Value: TypeAlias = tuple[int, int]  # a micro-batch and a virtual stage


def check(schedule: Schedule, plan: Slots | None = None) -> None:
    """Refuse a schedule that leaves work out, does it too early or mixes up what waits.

    Every micro-batch goes through every virtual stage once forward and once backward (whole or in
    halves), after what its work needs has been sent. The plan is then run: every read finds what
    it is meant to find, no write meets what is still to be read, nothing is left at the end, and
    each stage uses as many slots as its high waters say.

    Args:
        schedule: the table.
        plan: its slots; those of `plan_slots` if not given.

    Raises:
        InputError: names the stage, the micro-batch and the tick that are wrong.
    """
    _check_entries(schedule)
    _check_counts(schedule)
    _check_order(schedule)
    _check_plan(schedule, plan_slots(schedule) if plan is None else plan)


def _check_entries(schedule: Schedule) -> None:
    shape = (schedule.stages, schedule.op.shape[-1])
    bounds = {"op": len(Op), "micro_batch": schedule.micro_batches, "chunk": schedule.chunks}
    for name, bound in bounds.items():
        table = getattr(schedule, name)
        if table.shape != shape:
            raise InputError(f"Table {name} has the shape {table.shape}, but it must be {shape}.")
        for stage, tick in np.argwhere((table < 0) | (table >= bound)):
            raise InputError(
                f"Stage {stage}, tick {tick}: {name} is {table[stage, tick]}, but it must be in "
                f"0…{bound - 1}."
            )


def _check_counts(schedule: Schedule) -> None:
    counts = np.zeros((len(Op), schedule.micro_batches, schedule.chunks * schedule.stages), int)
    np.add.at(counts, (schedule.op, schedule.micro_batch, schedule.virtual_stage), 1)
    backward = counts[Op.BACKWARD] + counts[Op.BACKWARD_INPUT]
    rules = (
        ("FORWARD", counts[Op.FORWARD], np.ones_like(backward)),
        ("BACKWARD or BACKWARD_INPUT", backward, np.ones_like(backward)),
        ("BACKWARD_WEIGHT", counts[Op.BACKWARD_WEIGHT], counts[Op.BACKWARD_INPUT]),
    )
    for name, found, wanted in rules:
        for m, k in np.argwhere(found != wanted):
            chunk, stage = divmod(k, schedule.stages)
            raise InputError(
                f"Stage {stage}: {name} of micro-batch {m} in chunk {chunk} is done "
                f"{found[m, k]} times, but it must be done {wanted[m, k]} times."
            )


def _check_order(schedule: Schedule) -> None:
    """Each work after what it needs: its input or gradient was sent, its other half was done."""
    forward = schedule.ticks_of(Op.FORWARD)
    whole, first_half = schedule.ticks_of(Op.BACKWARD), schedule.ticks_of(Op.BACKWARD_INPUT)
    backward = np.maximum(whole, first_half)
    nothing = np.full((schedule.micro_batches, 1), -1)
    to_forward = np.hstack([nothing, forward[:, :-1]])
    to_backward = np.maximum(np.hstack([backward[:, 1:], nothing]), forward)
    needs = {
        Op.FORWARD: to_forward,
        Op.BACKWARD: to_backward,
        Op.BACKWARD_INPUT: to_backward,
        Op.BACKWARD_WEIGHT: first_half,
    }
    for op, needed in needs.items():
        ticks = schedule.ticks_of(op)
        for m, k in np.argwhere((ticks >= 0) & (ticks <= needed)):
            chunk, stage = divmod(k, schedule.stages)
            raise InputError(
                f"Stage {stage}, tick {ticks[m, k]}: {op.name} of micro-batch {m} in chunk "
                f"{chunk} is too early, for what it needs is there from tick "
                f"{needed[m, k] + 1} on."
            )


class _Memory:
    """Slots of one kind at every stage, what they hold, and the most that each stage ever held."""

    def __init__(
        self, name: str, high_water: tuple[int, ...], reads: np.ndarray, writes: np.ndarray
    ) -> None:
        self.name = name
        self.claimed = high_water
        self.reads, self.writes = reads, writes
        self.held: list[dict[int, _Value]] = [{} for _ in high_water]
        self.highest = [0] * len(high_water)

    def write(self, stage: int, tick: int, value: _Value) -> None:
        slot, held = int(self.writes[stage, tick]), self.held[stage]
        if not 0 <= slot < self.claimed[stage]:
            self._refuse(stage, tick, f"there is no slot {slot} to write to")
        if slot in held:
            self._refuse(stage, tick, f"slot {slot} still holds {_name(held[slot])}")
        held[slot] = value
        self.highest[stage] = max(self.highest[stage], len(held))

    def read(self, stage: int, tick: int, value: _Value, *, last: bool = True) -> None:
        slot, held = int(self.reads[stage, tick]), self.held[stage]
        if held.get(slot) != value:
            found = _name(held[slot]) if slot in held else "nothing"
            self._refuse(stage, tick, f"slot {slot} holds {found}, but {_name(value)} is read")
        if last:
            del held[slot]

    def finish(self) -> None:
        for stage, claimed in enumerate(self.claimed):
            for slot, value in self.held[stage].items():
                raise InputError(
                    f"Stage {stage}: {self.name} slot {slot} holds {_name(value)} at the end, "
                    "for which there is no reader."
                )
            if self.highest[stage] != claimed:
                raise InputError(
                    f"Stage {stage}: the {self.name} high water is {claimed}, but at most "
                    f"{self.highest[stage]} values wait at once."
                )

    def _refuse(self, stage: int, tick: int, fault: str) -> None:
        raise InputError(f"Stage {stage}, tick {tick}: in the {self.name} slots, {fault}.")


def _name(value: _Value) -> str:
    return f"micro-batch {value[0]} of virtual stage {value[1]}"


def _check_plan(schedule: Schedule, plan: Slots) -> None:
    """Run the plan on slots that know what they hold."""
    _check_arrivals(schedule, plan)
    inputs = _Memory("input", plan.input_high_water, plan.input_slots, plan.forward_arrival)
    gradients = _Memory(
        "gradient", plan.gradient_high_water, plan.gradient_slots, plan.gradient_arrival
    )
    slots = plan.residual_slots
    residuals = _Memory("residual", plan.residual_high_water, slots, slots)
    slots = plan.kept_input_slots
    kept = _Memory("kept input", plan.kept_input_high_water, slots, slots)
    slots = plan.weight_slots
    weights = _Memory("weight", plan.weight_high_water, slots, slots)
    last = schedule.chunks * schedule.stages - 1
    virtual = schedule.virtual_stage
    for tick in range(schedule.ticks):
        messages: list[tuple[_Memory, int, _Value]] = []
        for stage in np.flatnonzero(schedule.op[:, tick]).tolist():
            op = Op(schedule.op[stage, tick])
            m, k = int(schedule.micro_batch[stage, tick]), int(virtual[stage, tick])
            backward = op in (Op.BACKWARD, Op.BACKWARD_INPUT)
            if op == Op.FORWARD and k > 0:
                inputs.read(stage, tick, (m, k))
            if backward and k < last:
                gradients.read(stage, tick, (m, k))
            recompute = plan.recompute[stage]
            if not (recompute and k == 0):
                memory = kept if recompute else residuals
                if op == Op.FORWARD:
                    memory.write(stage, tick, (m, k))
                else:
                    memory.read(stage, tick, (m, k), last=op != Op.BACKWARD_INPUT)
            if op == Op.BACKWARD_INPUT:
                weights.write(stage, tick, (m, k))
            elif op == Op.BACKWARD_WEIGHT:
                weights.read(stage, tick, (m, k))
            if op == Op.FORWARD and k < last:
                messages.append((inputs, (stage + 1) % schedule.stages, (m, k + 1)))
            if backward and k > 0:
                messages.append((gradients, (stage - 1) % schedule.stages, (m, k - 1)))
        for memory, receiver, value in messages:
            memory.write(receiver, tick, value)
    for memory in (inputs, gradients, residuals, kept, weights):
        memory.finish()


def _check_arrivals(schedule: Schedule, plan: Slots) -> None:
    """A slot to write to where a message arrives, and nowhere else."""
    arrivals = {
        "an activation": (np.roll(activations_sent(schedule), 1, axis=0), plan.forward_arrival),
        "a gradient": (np.roll(gradients_sent(schedule), -1, axis=0), plan.gradient_arrival),
    }
    for message, (arrives, slots) in arrivals.items():
        for stage, tick in np.argwhere(arrives != (slots >= 0)):
            has, gets = ("no", "arrives") if arrives[stage, tick] else ("a", "does not arrive")
            raise InputError(
                f"Stage {stage}, tick {tick} has {has} slot for {message} that {gets}."
            )
