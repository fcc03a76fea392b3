"""The layouts that a run could have on some nodes, all of which train the same model alike.

The model, the batch of a step and its tokens stay; how devices share the work, what is recomputed
and in which precision the products are, differ. What cannot win is left out: groups of more than 48
devices, replicas fewer than an eighth of what there could be, layers shared unevenly where they
divide, and an option that only saves memory where one without it fits.
"""

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

from fugaku_jax.config import Config, MeshConfig, TrainingConfig
from fugaku_jax.layout.factors import KINDS, factorings
from fugaku_jax.planning.step_work import Precision

LARGEST_GROUP = 48
"""Devices that share a layer or a sequence, at most."""
MICRO_BATCHES = (1, 2, 4)
"""Rows of a micro-batch on a device."""
_MOST_CHUNKS = 8
_FEWEST_REPLICAS = 8  # of the most that there could be, one part in so many


Kind = Literal["1f1b", "zero_bubble", "interleaved"]


class Saving(NamedTuple):
    """What makes a layout need less memory, and a step longer."""

    weights: Literal["replicated", "zero1", "fsdp"]
    """`mesh.weights`."""
    remat: Literal["none", "products", "block"]
    """`training.remat`."""
    stages: float
    """Share of the stages that recompute."""


SAVINGS = (
    Saving("zero1", "none", 0),
    Saving("zero1", "products", 0),
    Saving("zero1", "none", 0.5),
    Saving("zero1", "block", 0),
    Saving("fsdp", "none", 0),
    Saving("fsdp", "block", 0),
)
"""From the one that needs most to the one that needs least."""


def degrees_of(config: Config, devices: int, local: int) -> list[dict[str, int]]:
    """Return the degrees of parallelism that divide the devices, the batch and the model.

    Args:
        config: the run.
        devices: of the mesh.
        local: devices of a node, which are among the tensor devices.
    """
    model, batch = config.model, config.training.batch_size
    shared = math.gcd(model.n_heads, model.kv_heads, model.feed_forward)
    found = []
    for factors in factorings(devices, (shared, model.sequence_length // 4, batch, devices)):
        degrees = dict(zip(KINDS, factors, strict=True))
        if degrees["tensor"] % local or max(degrees["tensor"], degrees["context"]) > LARGEST_GROUP:
            continue
        if degrees["pipeline"] <= model.n_layers:
            found.append(degrees)
    most = max((degrees["data"] for degrees in found), default=0)
    return [degrees for degrees in found if degrees["data"] * _FEWEST_REPLICAS >= most]


def schedules_of(config: Config, stages: int) -> list[tuple[Kind, int]]:
    """Return the schedules worth a try on so many stages, each with its chunks."""
    if stages == 1:
        return [("1f1b", 1)]
    layers = config.model.n_layers
    chunks = range(2, min(layers // stages, _MOST_CHUNKS) + 1)
    even = [n for n in chunks if layers % (stages * n) == 0]
    return [("1f1b", 1), ("zero_bubble", 1), *(("interleaved", n) for n in even or chunks[:2])]


def options(
    config: Config, degrees: dict[str, int], local: int, precisions: Sequence[Precision]
) -> Iterator[Iterator[Config]]:
    """Yield configurations, those together that differ in what they do to save memory alone.

    Args:
        config: the run, as its recipe gives it.
        degrees: kind of parallelism -> degree.
        local: devices of a node.
        precisions: those that may be taken.

    Yields:
        from the one that needs most memory to the one that needs least.
    """
    rows, stages = config.training.batch_size // degrees["data"], degrees["pipeline"]
    replicas, given = degrees["data"] * degrees["context"], dict[str, Any](degrees)
    savings = [each for each in SAVINGS if stages > 1 or not each.stages]
    if replicas == 1:
        savings = [
            each._replace(weights="replicated") for each in savings if each.weights == "zero1"
        ]
    for size in MICRO_BATCHES:
        if rows % size:
            continue
        for precision in precisions:
            training = replace(
                config.training, micro_batches=rows // size, precision=precision, remat="none"
            )
            for schedule, chunks in schedules_of(config, stages):
                for shared in (False, True)[: 1 + (degrees["tensor"] > 1)]:
                    mesh = replace(
                        config.mesh,
                        **given,
                        local=local,
                        layers=(),
                        schedule=schedule,
                        chunks=chunks,
                        sequence_parallel=shared,
                    )
                    yield map(functools.partial(_saving, config, training, mesh), savings)


def _saving(config: Config, training: TrainingConfig, mesh: MeshConfig, saving: Saving) -> Config:
    recomputing = int(saving.stages * mesh.pipeline)
    return replace(
        config,
        training=replace(training, remat=saving.remat),
        mesh=replace(mesh, weights=saving.weights, recompute_stages=recomputing),
    )
