"""Pipeline schedules as tables: which stage does what in which tick, and where its values wait.

Stages pass messages by rendezvous, as `ppermute` does: both sides wait for each other. No table
here loses time by that, whatever the work costs (`zero_bubble`: as long as the weight gradient is
no dearer than the input gradient). Either the stages of a tick all do the same kind of work, or
the two sides of an exchange are done at the same moment (`tests/pipeline/test_schedule_time.py`).

Sources: GPipe, Huang et al., NeurIPS 2019 (arXiv:1811.06965); 1F1B with a flush and interleaved
1F1B, Narayanan et al., SC 2021 (arXiv:2104.04473); ZB-H1, Qi et al., "Zero Bubble Pipeline
Parallelism", ICLR 2024 (arXiv:2401.10241).
"""

import enum
from collections import deque
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int, Int32

from fugaku_jax.errors import InputError

KINDS = ("gpipe", "1f1b", "interleaved", "zero_bubble")


class Op(enum.IntEnum):
    """What a stage does in a tick."""

    IDLE = 0
    FORWARD = 1
    BACKWARD = 2
    """The gradients of a chunk's input and of its weights."""
    BACKWARD_INPUT = 3
    """The gradient of a chunk's input alone."""
    BACKWARD_WEIGHT = 4
    """The gradient of a chunk's weights, from what BACKWARD_INPUT left."""


@dataclass(frozen=True, eq=False)
class Schedule:
    """The work of S stages in T ticks.

    A stage holds `chunks` runs of layers. Chunk c of stage s is virtual stage k = c·S + s; what
    goes forward from k is the input of k + 1, at stage (s + 1) % S. A tick orders the work and
    measures no time. What a FORWARD (a BACKWARD or BACKWARD_INPUT) sends in tick t is at the next
    (the previous) virtual stage from tick t + 1 on; the last (the first) sends nothing.
    """

    kind: str
    """Name: one of `KINDS`."""
    stages: int
    """S, the devices that the layers are spread over."""
    micro_batches: int
    """M, the parts of a batch."""
    chunks: int
    """Runs of layers on each stage."""
    op: Int32[np.ndarray, "S T"]
    """The `Op` of a stage in a tick."""
    micro_batch: Int32[np.ndarray, "S T"]
    """Which micro-batch it is done to; 0 where idle."""
    chunk: Int32[np.ndarray, "S T"]
    """Which of the stage's chunks does it; 0 where idle."""

    @property
    def ticks(self) -> int:
        """T, the length of the table."""
        return self.op.shape[1]

    @property
    def virtual_stage(self) -> Int32[np.ndarray, "S T"]:
        """The virtual stage that each entry is of; meaningless where idle."""
        return self.chunk * self.stages + np.arange(self.stages, dtype=np.int32)[:, None]

    def ticks_of(self, op: Op) -> Int[np.ndarray, "M K"]:
        """In which tick a kind of work is done to each micro-batch by each virtual stage, or −1."""
        done = self.op == op
        ticks = np.full((self.micro_batches, self.chunks * self.stages), -1)
        ticks[self.micro_batch[done], self.virtual_stage[done]] = np.nonzero(done)[1]
        return ticks


def make_schedule(kind: str, stages: int, micro_batches: int, chunks: int = 1) -> Schedule:
    """Make the table of a training step.

    Micro-batches go backward in ascending order under every kind, so that the gradients of a
    weight are added in the same order.

    Args:
        kind: `gpipe` does all forwards before the backwards. `1f1b` alternates as soon as it can;
            stage s has min(M, S − s) micro-batches in flight. `interleaved` is 1F1B over several
            chunks a stage. `zero_bubble` is ZB-H1: BACKWARD_WEIGHT of stage s runs s micro-batches
            later than BACKWARD_INPUT and fills what would be idle; every stage then has min(M, S)
            micro-batches in flight, which under 1F1B only the first one has.
        stages: S ≥ 1.
        micro_batches: M ≥ 1.
        chunks: runs of layers on each stage; more than one under `interleaved` alone.

    Raises:
        InputError: a number is out of range, or the kind is unknown.
    """
    _require_positive(stages=stages, micro_batches=micro_batches, chunks=chunks)
    if kind not in KINDS:
        raise InputError(f"schedule is {kind!r}, but it must be one of {', '.join(KINDS)}.")
    if (kind == "interleaved") != (chunks > 1):
        raise InputError(
            f"chunks is {chunks} under the schedule {kind}, but interleaved needs 2 or more, "
            "and every other schedule has 1."
        )
    m, s = np.arange(micro_batches)[:, None], np.arange(stages)
    if kind == "gpipe":
        backward = micro_batches + stages - 1 + m + stages - 1 - s
        ticks = {Op.FORWARD: m + s, Op.BACKWARD: backward}
    elif kind == "1f1b":
        # In a tick neighbours do opposite work, so that of a stage's two edges one is in use.
        ticks = {Op.FORWARD: s + 2 * m, Op.BACKWARD: 2 * stages - 1 - s + 2 * m}
    elif kind == "interleaved":
        ticks = _interleaved(stages, micro_batches, chunks)
    else:
        ticks = _zero_bubble(stages, micro_batches)
    return _table(kind, stages, ticks)


def activations_sent(schedule: Schedule) -> Bool[np.ndarray, "S T"]:
    """Whether a stage sends an activation to the next one (of the last: the first) after a tick."""
    last = schedule.chunks * schedule.stages - 1
    return (schedule.op == Op.FORWARD) & (schedule.virtual_stage < last)


def gradients_sent(schedule: Schedule) -> Bool[np.ndarray, "S T"]:
    """Whether a stage sends a gradient to the one before (of the first: the last) after a tick."""
    backward = np.isin(schedule.op, (Op.BACKWARD, Op.BACKWARD_INPUT))
    return backward & (schedule.virtual_stage > 0)


def edges_in_use(schedule: Schedule) -> Bool[np.ndarray, "S T"]:
    """Whether anything passes an edge, in either direction, at the end of a tick.

    Edge e joins the stages e and (e + 1) % S. The last one is in use under several chunks only,
    and not where S is 2: it would join the same two stages as edge 0, which serves for both.
    """
    used = activations_sent(schedule) | np.roll(gradients_sent(schedule), -1, axis=0)
    if schedule.stages == 2:
        used = np.stack([used.any(axis=0), np.zeros_like(used[1])])
    return used


def edge_colours(stages: int, wrap: bool) -> list[list[int]]:
    """Part the edges into as few groups as can be, so that those of a group share no stage.

    The executor serves the edges group by group; as every stage does so in the same order, none
    waits for another in a circle.

    Args:
        stages: S; edge e joins the stages e and (e + 1) % S.
        wrap: whether the edge S − 1, from the last stage to the first, is there (if S > 2).

    Returns:
        The even edges, the odd ones, and by itself the wrapping edge of an odd S.
    """
    line = range(stages - 1)
    groups = [[*line[::2]], [*line[1::2]], []]
    if wrap and stages > 2:
        groups[1 if stages % 2 == 0 else 2].append(stages - 1)
    return [group for group in groups if group]


def _require_positive(**numbers: int) -> None:
    for name, number in numbers.items():
        if number < 1:
            raise InputError(f"{name} is {number}, but a pipeline needs 1 or more.")


def _table(kind: str, stages: int, ticks: dict[Op, np.ndarray]) -> Schedule:
    """Lay out the ticks `[M, K]` of each kind of work as a table."""
    micro_batches, virtual_stages = ticks[Op.FORWARD].shape
    length = max(int(each.max()) for each in ticks.values()) + 1
    op, micro_batch, chunk = np.zeros((3, stages, length), np.int32)
    m, k = np.indices((micro_batches, virtual_stages))
    for each, tick in ticks.items():
        op[k % stages, tick] = each
        micro_batch[k % stages, tick] = m
        chunk[k % stages, tick] = k // stages
    chunks = virtual_stages // stages
    return Schedule(kind, stages, micro_batches, chunks, op, micro_batch, chunk)


def _rounds(stages: int, micro_batches: int, chunks: int) -> tuple[np.ndarray, np.ndarray]:
    """When each forward would run were there forwards only, and each backward likewise: `[M, K]`.

    Groups of micro-batches go round all chunks, one group after the other. A group of S or more
    comes back to the first stage when that has just sent off the last of them, or later; so none
    is smaller (unless M is), and no stage waits once it has begun, whether S divides M or not.
    """
    groups = np.array_split(np.arange(micro_batches), max(micro_batches // stages, 1))
    chunk, stage = np.divmod(np.arange(chunks * stages), stages)
    forward, backward = [], []
    for group in groups:
        lap = max(len(group), stages)
        place = group[:, None] + (chunks - 1) * group[0]
        forward.append(place + lap * chunk + stage)
        backward.append(place + lap * (chunks - 1 - chunk) + stages - 1 - stage)
    return np.concatenate(forward), np.concatenate(backward)


def _interleaved(stages: int, micro_batches: int, chunks: int) -> dict[Op, np.ndarray]:
    """Merge forwards and backwards so that the stages of a tick all do the same kind of work.

    That makes the table of Megatron-LM where S divides M: as many forwards in flight at each
    stage, (chunks − 1)·S + 2·(S − s) − 1 chunks of a micro-batch.
    """
    forward, backward = _rounds(stages, micro_batches, chunks)
    # A micro-batch turns round at the last virtual stage: backward there comes after forward.
    lead = int((forward - backward)[:, -1].max())
    warm_up = np.minimum(lead + 1 + backward, int(forward.max()) + 1)
    return {
        Op.FORWARD: forward + np.maximum(forward - lead, 0),
        Op.BACKWARD: backward + warm_up,
    }


def _zero_bubble(stages: int, micro_batches: int) -> dict[Op, np.ndarray]:
    """Do the work of each stage in its order, each piece in the first tick that allows it."""
    rows = [_zero_bubble_row(stages, stage, micro_batches) for stage in range(stages)]
    never = 4 * (micro_batches + stages)
    kinds = (Op.FORWARD, Op.BACKWARD_INPUT, Op.BACKWARD_WEIGHT)
    ticks = {op: np.full((micro_batches, stages), never) for op in kinds}
    forward, backward = ticks[Op.FORWARD], ticks[Op.BACKWARD_INPUT]
    tick = 0
    while any(rows):
        for stage, row in enumerate(rows):
            if not row:
                continue
            op, m = row[0]
            needed = -1
            if op == Op.FORWARD and stage > 0:
                needed = forward[m, stage - 1]
            elif op == Op.BACKWARD_INPUT:
                needed = backward[m, stage + 1] if stage < stages - 1 else forward[m, stage]
            if needed < tick:
                ticks[op][m, stage] = tick
                row.popleft()
        tick += 1
    return ticks


def _zero_bubble_row(stages: int, stage: int, micro_batches: int) -> deque[tuple[Op, int]]:
    """The order of ZB-H1: weight gradients lag `stage` micro-batches behind input gradients.

    Here a weight gradient goes before the input gradient as long as the stage before has a forward
    to do ahead of its own backward: the two then send to each other at the same moment. In the
    paper's order one waits for the other whenever BACKWARD_WEIGHT is shorter than FORWARD.
    """
    warm_up = min(stages - stage, micro_batches)
    row = [(Op.FORWARD, m) for m in range(warm_up)]
    for m in range(micro_batches + stage):
        input_gradient = [(Op.BACKWARD_INPUT, m)] if m < micro_batches else []
        weight_gradient = [(Op.BACKWARD_WEIGHT, m - stage)] if m >= stage else []
        forward = [(Op.FORWARD, m + warm_up)] if m + warm_up < micro_batches else []
        if forward and stage > 0:
            row += weight_gradient + input_gradient + forward
        else:
            row += input_gradient + weight_gradient + forward
    return deque(row)
