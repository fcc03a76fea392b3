"""How long a step takes, modelled: what a device computes, moves and sends, as its schedule orders.

A stage does the work of its layers, micro-batch by micro-batch, as the schedule's table orders it;
sums over tensor and context axes are part of that work, since XLA's CPU device runs one thing at a
time. After the last micro-batch replicas sum their gradients, and update. Every second here is
modelled; none is measured but where `Rates.measured` says so.
"""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float

from fugaku_jax.config import Config
from fugaku_jax.models.size import flops_per_token
from fugaku_jax.pipeline.duration import Timeline, simulate
from fugaku_jax.pipeline.schedule import Op, Schedule, make_schedule
from fugaku_jax.planning.links import StepLinks
from fugaku_jax.planning.rates import Rates
from fugaku_jax.planning.step_work import (
    FP32,
    StepWork,
    Transfer,
    Work,
    layers_of_stages,
    step_work,
    update_messages,
)

UPDATE_BYTES = 8 * FP32
"""That clipping and AdamW move a parameter: its gradient is read twice, its weight and moments are
read and written (`benchmarks.updates`)."""

Seconds = Mapping[str, float]


@dataclass(frozen=True)
class StepTime:
    """A modelled step."""

    seconds: float
    """All of it."""
    breakdown: Mapping[str, float] = field(hash=False)
    """Seconds of the stage that works longest, by what takes them; their sum is the step's."""
    mfu: float
    """The model's operations over what all devices could do at their peak in that time."""
    operations: float
    """The model's operations of a step, on all devices."""
    stages: tuple[Mapping[str, float], ...] = field(hash=False)
    """Seconds that each stage works on all of its micro-batches, by kind."""
    costs: Mapping[Op, Float[np.ndarray, "S C"]] = field(hash=False)
    """Seconds of each kind of work of each chunk."""


def model_step(
    config: Config,
    degrees: Mapping[str, int],
    rates: Rates,
    links: StepLinks,
    *,
    exact: bool = True,
) -> StepTime:
    """Model a step.

    Args:
        config: the run.
        degrees: kind of parallelism -> degree, none of them -1.
        rates: of one device.
        links: of its machine, with the axes that carry each kind.
        exact: let the schedule's table say how long stages wait, not a formula that is within some
            percent of it where stages differ.
    """
    work = step_work(config, degrees)
    stages, training = degrees["pipeline"], config.training
    layers = layers_of_stages(config, stages)
    by_kind = _works(config, work, layers, rates, links)
    costs = {
        op: np.array([[sum(chunk.values()) for chunk in stage] for stage in table])
        for op, table in by_kind.items()
    }
    micro_batches = training.micro_batches
    per_stage = [
        {
            k: micro_batches * v
            for k, v in _added(*(c for op in by_kind for c in by_kind[op][s])).items()
        }
        for s in range(stages)
    ]
    busiest = max(range(stages), key=lambda s: sum(per_stage[s].values()))
    busy = sum(per_stage[busiest].values())
    if stages == 1:
        span = busy
    elif exact:
        span = simulated(config, stages, costs).makespan
    else:
        span = spanned(config, costs)
    most = max(map(sum, layers))
    update = _update(config, work, most, rates, links)
    hidden = min(
        rates.software.overlap * update["gradients"], per_stage[busiest].get("products", 0)
    )
    update["gradients"] -= hidden
    breakdown = per_stage[busiest] | {"bubble": max(span - busy, 0.0)} | update
    seconds = sum(breakdown.values())
    devices = math.prod(degrees.values())
    operations = float(flops_per_token(config.model)) * config.tokens_per_step
    return StepTime(
        seconds=seconds,
        breakdown=breakdown,
        mfu=operations / (seconds * devices * rates.peak[training.precision]),
        operations=operations,
        stages=tuple(per_stage),
        costs=costs,
    )


def step_messages(config: Config, degrees: Mapping[str, int]) -> list[Transfer]:
    """Return what a device of a stage in the middle sends in a step, alike messages as one.

    Sums over the ends' own work (embedding, loss) are left out.
    """
    work = step_work(config, degrees)
    most, micro_batches = (
        max(map(sum, layers_of_stages(config, degrees["pipeline"]))),
        (config.training.micro_batches),
    )
    stage = config.mesh.recompute_stages > 0 and degrees["pipeline"] > 1
    again = stage or config.training.remat == "block"
    counts: Counter[Transfer] = Counter()
    phases = ("forward", "backward", *(("forward",) if again else ()))
    for message in (m for phase in phases for m in work.layer[phase].messages):
        counts[replace(message, count=1)] += message.count * most * micro_batches
    if work.between_stages:
        counts[work.between_stages] += 2 * config.mesh.chunks * micro_batches
    for message in update_messages(config, work, most)[0]:
        counts[replace(message, count=1)] += message.count
    return [replace(message, count=count) for message, count in counts.items()]


def schedule_of(config: Config, stages: int) -> Schedule:
    """Return the table of a run's pipeline."""
    mesh = config.mesh
    return make_schedule(mesh.schedule, stages, config.training.micro_batches, mesh.chunks)


def simulated(
    config: Config, stages: int, costs: Mapping[Op, Float[np.ndarray, "S C"]]
) -> Timeline:
    """Return when each stage does what."""
    return simulate(schedule_of(config, stages), costs)


def spanned(config: Config, costs: Mapping[Op, Float[np.ndarray, "S C"]]) -> float:
    """Return about how long the schedule takes: `duration.formula_bubble` with unlike stages.

    All micro-batches pass the stage that works longest, and the first one all the others.
    """
    m, chunks = config.training.micro_batches, config.mesh.chunks
    of_stage = np.sum([cost.sum(axis=1) for cost in costs.values()], axis=0)  # of a micro-batch
    longest, rest = float(of_stage.max()), float(of_stage.sum() - of_stage.max())
    if config.mesh.schedule == "zero_bubble":
        return m * longest + max(rest / 3, 0.0)
    lap = max(m * longest, longest + rest)  # until the first micro-batch's next chunk may begin
    return ((chunks - 1) * lap + m * longest + rest) / chunks


def _works(
    config: Config,
    work: StepWork,
    layers: tuple[tuple[int, ...], ...],
    rates: Rates,
    links: StepLinks,
) -> dict[Op, list[list[Seconds]]]:
    """Seconds by kind of each kind of work of each chunk of each stage."""
    precision = config.training.precision

    def seconds(each: Work) -> Seconds:
        return _added(rates.seconds(each, precision), _sent(each.messages, links))

    there, back = (seconds(work.layer[phase]) for phase in ("forward", "backward"))
    embedding, head = seconds(work.embedding), seconds(work.head)
    sent = _sent((work.between_stages,), links) if work.between_stages else {}
    again = {
        "none": {},
        # Its products are kept, with the sums that follow them.
        "products": {k: v for k, v in there.items() if k in ("attention", "memory")},
        "block": there,
    }[config.training.remat]
    split = config.mesh.schedule == "zero_bubble"
    first, last = (0, 0), (len(layers) - 1, len(layers[0]) - 1)
    forward, backward, weights = [], [], []
    for stage, chunks in enumerate(layers):
        recomputes = len(layers) > 1 and stage < config.mesh.recompute_stages
        repeated = {"recomputed": sum((there if recomputes else again).values(), 0.0)}
        rows: tuple[list, list, list] = ([], [], [])
        for chunk, count in enumerate(chunks):
            way = _times(there, count)
            if (stage, chunk) == first:
                way = _added(way, embedding)
            if (stage, chunk) != last:
                way = _added(way, sent)
            home = _times(_added(back, repeated), count)
            if (stage, chunk) == last:
                home = _added(home, head)
            if (stage, chunk) != first:
                home = _added(home, sent)
            put_off: Seconds = {}
            if split:  # half of the products are gradients of weights
                put_off = {"products": count * back["products"] * work.backward_weights}
                home = _added(home, _times(put_off, -1))
            for row, each in zip(rows, (way, home, put_off), strict=True):
                row.append(each)
        for table, row in zip((forward, backward, weights), rows, strict=True):
            table.append(row)
    if not split:
        return {Op.FORWARD: forward, Op.BACKWARD: backward}
    return {Op.FORWARD: forward, Op.BACKWARD_INPUT: backward, Op.BACKWARD_WEIGHT: weights}


def _update(
    config: Config, work: StepWork, layers: int, rates: Rates, links: StepLinks
) -> dict[str, float]:
    """Seconds after the last micro-batch: of messages, and of the optimizer."""
    messages, _, state = update_messages(config, work, layers)
    return {
        "gradients": sum((links.seconds(each) for each in messages), 0.0),
        "optimizer": UPDATE_BYTES * state / rates.stream,
    }


def _sent(messages: tuple[Transfer, ...], links: StepLinks) -> Seconds:
    """Seconds of messages, by the innermost kind of parallelism that they go along."""
    total: dict[str, float] = {}
    for message in messages:
        kind = "weights gathered" if message.over == ("data", "context") else message.over[0]
        kind = "stages" if kind == "pipeline" else kind
        total[kind] = total.get(kind, 0.0) + links.seconds(message)
    return total


def _added(*parts: Seconds) -> dict[str, float]:
    total: dict[str, float] = {}
    for part in parts:
        for kind, value in part.items():
            total[kind] = total.get(kind, 0.0) + value
    return total


def _times(seconds: Seconds, count: float | int) -> dict[str, float]:
    return {kind: count * value for kind, value in seconds.items()}
