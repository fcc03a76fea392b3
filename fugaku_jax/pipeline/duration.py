"""How long a pipeline schedule takes and how much of that its stages are idle: modelled times."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from fugaku_jax.errors import InputError
from fugaku_jax.pipeline.schedule import KINDS, Op, Schedule, edge_colours, edges_in_use

COSTS: Mapping[Op, float | int] = {
    Op.FORWARD: 1,
    Op.BACKWARD: 2,
    Op.BACKWARD_INPUT: 1,
    Op.BACKWARD_WEIGHT: 1,
}
"""Time of each kind of work on a chunk, in forwards: a backward has twice the multiplications."""


@dataclass(frozen=True, eq=False)
class Timeline:
    """When everything in a schedule happens, in the unit of the costs; transfers take no time."""

    start: Float[np.ndarray, "S T"]
    """When the work of an entry begins."""
    end: Float[np.ndarray, "S T"]
    """When it ends; an idle entry ends when it begins."""
    makespan: float
    """When the last work ends."""
    busy: tuple[float, ...]
    """Time that each stage works."""

    @property
    def idle_fraction(self) -> float:
        """The share of all stages' time until the makespan in which they do not work."""
        return 1 - sum(self.busy) / (len(self.busy) * self.makespan)


def simulate(
    schedule: Schedule,
    costs: Mapping[Op, float | int | Float[np.ndarray, "S C"]] = COSTS,
    *,
    rendezvous: bool = True,
) -> Timeline:
    """Run a schedule without a clock: each stage does its row in order, as soon as it can.

    Args:
        schedule: a table that `schedule_check.check` accepts.
        costs: the time of each kind of work: of all alike, or by stage and chunk.
        rendezvous: whether both sides of an exchange wait for each other, the edges of a tick in
            the order of `edge_colours`. If not, a message is there as soon as it is sent, and only
            who needs it waits.
    """
    stages, virtual = schedule.stages, schedule.virtual_stage
    # When the input of virtual stage k, or the gradient of its output, is there.
    activation = np.zeros((schedule.micro_batches, schedule.chunks * stages + 1))
    gradient = np.zeros_like(activation)
    exchanged = edges_in_use(schedule)
    colours = edge_colours(stages, wrap=bool(exchanged[-1].any()))
    shape = stages, schedule.chunks
    lasting = {op: np.broadcast_to(cost, shape).tolist() for op, cost in costs.items()}
    clock = np.zeros(stages)
    start, end = np.zeros((2, *schedule.op.shape))
    for tick in range(schedule.ticks):
        for stage in range(stages):
            op = Op(schedule.op[stage, tick])
            m, k = schedule.micro_batch[stage, tick], virtual[stage, tick]
            if op == Op.FORWARD:
                clock[stage] = max(clock[stage], activation[m, k])
            elif op in (Op.BACKWARD, Op.BACKWARD_INPUT):
                clock[stage] = max(clock[stage], gradient[m, k + 1])
            start[stage, tick] = clock[stage]
            if op != Op.IDLE:
                clock[stage] += lasting[op][stage][schedule.chunk[stage, tick]]
            end[stage, tick] = clock[stage]
            if op == Op.FORWARD:
                activation[m, k + 1] = clock[stage]
            elif op in (Op.BACKWARD, Op.BACKWARD_INPUT):
                gradient[m, k] = clock[stage]
        if rendezvous:
            for edge in (edge for group in colours for edge in group if exchanged[edge, tick]):
                pair = [edge, (edge + 1) % stages]
                clock[pair] = clock[pair].max()
    busy = tuple((end - start).sum(axis=1).tolist())
    return Timeline(start=start, end=end, makespan=float(end.max()), busy=busy)


def bubble(schedule: Schedule) -> float:
    """The modelled share of time that stages are idle under `COSTS` and rendezvous."""
    return simulate(schedule).idle_fraction


def formula_bubble(kind: str, stages: int, micro_batches: int, chunks: int = 1) -> float:
    """The share of time that stages are idle, in closed form; it equals `bubble` of the table.

    GPipe and 1F1B: (S − 1) / (M + S − 1). Interleaved, with M ≥ S: (S − 1) / (v·M + S − 1); fewer
    micro-batches cannot fill the ring, and a lap of it then takes S. ZB-H1, with M ≥ S:
    (S − 1) / (3·M + S − 1); with fewer the way there and back decides.

    Raises:
        InputError: the kind is unknown.
    """
    if kind not in KINDS:
        raise InputError(f"schedule is {kind!r}, for which there is no formula.")
    if kind == "zero_bubble":
        work = 3 * micro_batches
        span = max(work + stages - 1, 2 * micro_batches + 2 * stages - 1)
    else:
        work = chunks * micro_batches
        span = (chunks - 1) * max(stages, micro_batches) + micro_batches + stages - 1
    return 1 - work / span
