"""Where the values of a pipeline schedule wait: a slot for each, given back when it has been read.

A value that waits is an interval of ticks at one stage. Giving each interval, in the order in which
they begin, the lowest free slot needs no more slots than values ever wait at once (the colouring
of an interval graph).
"""

import heapq
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int, Int32

from fugaku_jax.errors import InputError
from fugaku_jax.pipeline.schedule import Op, Schedule


@dataclass(frozen=True, eq=False)
class Slots:
    """Slots for all that waits, by kind; each kind has buffers of its own.

    The arrays `[S, T]` hold a slot, or −1 where the entry has none. The work of a tick reads its
    slots before the messages at the end of that tick are written to theirs. High waters give
    for each stage how many slots of a kind it needs; on one program for all stages the buffers
    have the largest of these, `n_…_slots`.
    """

    recompute: tuple[bool, ...]
    """Which stages keep a chunk's input in place of what it computed, and compute it again."""
    forward_arrival: Int32[np.ndarray, "S T"]
    """Input slot that the activation arriving at the end of the tick goes to."""
    input_slots: Int32[np.ndarray, "S T"]
    """Input slot that FORWARD reads; the first virtual stage has none, it reads tokens."""
    gradient_arrival: Int32[np.ndarray, "S T"]
    """Gradient slot that the gradient arriving at the end of the tick goes to."""
    gradient_slots: Int32[np.ndarray, "S T"]
    """Gradient slot that BACKWARD or BACKWARD_INPUT reads; the last virtual stage has none."""
    residual_slots: Int32[np.ndarray, "S T"]
    """Where FORWARD leaves, and every backward reads, what was computed; not if recomputing."""
    kept_input_slots: Int32[np.ndarray, "S T"]
    """Where a recomputing FORWARD leaves, and every backward reads, the chunk's input; the first
    virtual stage has none, its tokens do not go away."""
    weight_slots: Int32[np.ndarray, "S T"]
    """Where BACKWARD_INPUT leaves what BACKWARD_WEIGHT reads."""
    input_high_water: tuple[int, ...]
    gradient_high_water: tuple[int, ...]
    residual_high_water: tuple[int, ...]
    """A micro-batch counts from its FORWARD until its last backward has run."""
    kept_input_high_water: tuple[int, ...]
    weight_high_water: tuple[int, ...]

    @property
    def n_input_slots(self) -> int:
        """Input slots of the stage that needs most."""
        return max(self.input_high_water)

    @property
    def n_gradient_slots(self) -> int:
        """Gradient slots of the stage that needs most."""
        return max(self.gradient_high_water)

    @property
    def n_residual_slots(self) -> int:
        """Residual slots of the stage that needs most."""
        return max(self.residual_high_water)

    @property
    def n_kept_input_slots(self) -> int:
        """Kept-input slots of the stage that needs most."""
        return max(self.kept_input_high_water)

    @property
    def n_weight_slots(self) -> int:
        """Weight slots of the stage that needs most."""
        return max(self.weight_high_water)


def plan_slots(schedule: Schedule, recompute: tuple[bool, ...] | None = None) -> Slots:
    """Give every value that waits a slot, as few as can be.

    Args:
        schedule: a table that `schedule_check.check` accepts.
        recompute: for each stage whether it keeps inputs only; none does if not given.

    Raises:
        InputError: `recompute` has not one entry a stage.
    """
    stages = schedule.stages
    recompute = (False,) * stages if recompute is None else recompute
    if len(recompute) != stages:
        raise InputError(
            f"recompute has {len(recompute)} entries, but it must have one for each of the "
            f"{stages} stages."
        )
    forward = schedule.ticks_of(Op.FORWARD)
    backward = np.maximum(schedule.ticks_of(Op.BACKWARD), schedule.ticks_of(Op.BACKWARD_INPUT))
    weight = schedule.ticks_of(Op.BACKWARD_WEIGHT)
    released = np.maximum(backward, weight)
    virtual = np.arange(forward.shape[1])
    received, answered, recomputed = (
        np.broadcast_to(each, forward.shape)
        for each in (virtual > 0, virtual < virtual[-1], np.array(recompute)[virtual % stages])
    )
    # Twice a tick is its work, and one more the messages at its end. What is rolled round from
    # the other end of the line of virtual stages is never received.
    sent_forward = 2 * np.roll(forward, 1, axis=1) + 1
    sent_backward = 2 * np.roll(backward, -1, axis=1) + 1

    def pool(
        start: np.ndarray, end: np.ndarray, waits: np.ndarray
    ) -> tuple[np.ndarray, tuple[int, ...]]:
        return _pool(stages, start, 2 * end, waits)

    inputs, input_high_water = pool(sent_forward, forward, received)
    gradients, gradient_high_water = pool(sent_backward, backward, answered)
    residuals, residual_high_water = pool(2 * forward, released, ~recomputed)
    kept, kept_high_water = pool(2 * forward, released, received & recomputed)
    weights, weight_high_water = pool(2 * backward, weight, weight >= 0)

    def at(slots: np.ndarray, *ticks: np.ndarray) -> Int32[np.ndarray, "S T"]:
        table = np.full(schedule.op.shape, -1, np.int32)
        for tick in ticks:
            m, k = np.nonzero((slots >= 0) & (tick >= 0))
            table[k % stages, tick[m, k]] = slots[m, k]
        return table

    return Slots(
        recompute=recompute,
        forward_arrival=at(inputs, sent_forward // 2),
        input_slots=at(inputs, forward),
        gradient_arrival=at(gradients, sent_backward // 2),
        gradient_slots=at(gradients, backward),
        residual_slots=at(residuals, forward, backward, weight),
        kept_input_slots=at(kept, forward, backward, weight),
        weight_slots=at(weights, backward, weight),
        input_high_water=input_high_water,
        gradient_high_water=gradient_high_water,
        residual_high_water=residual_high_water,
        kept_input_high_water=kept_high_water,
        weight_high_water=weight_high_water,
    )


def _pool(
    stages: int,
    start: Int[np.ndarray, "M K"],
    end: Int[np.ndarray, "M K"],
    waits: Bool[np.ndarray, "M K"],
) -> tuple[Int[np.ndarray, "M K"], tuple[int, ...]]:
    """Colour the intervals of those that wait, stage by stage: slots (or −1) and high waters."""
    slots = np.full(start.shape, -1)
    high_water = []
    for stage in range(stages):
        of_stage = np.arange(start.shape[1]) % stages == stage
        m, k = np.nonzero(waits & of_stage)
        order = np.argsort(start[m, k])
        free: list[int] = []
        taken: list[tuple[int, int]] = []
        used = 0
        for m_i, k_i in zip(m[order].tolist(), k[order].tolist(), strict=True):
            while taken and taken[0][0] < start[m_i, k_i]:
                heapq.heappush(free, heapq.heappop(taken)[1])
            if not free:
                heapq.heappush(free, used)
                used += 1
            slot = heapq.heappop(free)
            heapq.heappush(taken, (int(end[m_i, k_i]), slot))
            slots[m_i, k_i] = slot
        high_water.append(used)
    return slots, tuple(high_water)
