"""Ranks the layouts that a run could have on a machine by their modelled step."""

import heapq
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from fugaku_jax.config import Config
from fugaku_jax.errors import InputError
from fugaku_jax.layout.mesh import assign_axes
from fugaku_jax.planning.layout_options import degrees_of, options
from fugaku_jax.planning.links import StepLinks
from fugaku_jax.planning.measured import Measured
from fugaku_jax.planning.memory import DeviceBytes, fits, model_bytes
from fugaku_jax.planning.rates import Rates, Software, device_rates
from fugaku_jax.planning.step_time import StepTime, model_step
from fugaku_jax.planning.step_work import Precision, step_work
from fugaku_jax.tofu.machine import Machine

_AGAIN = 60  # layouts of the best of a precision whose schedule's table is asked


@dataclass(frozen=True)
class Ranked:
    """A layout, and what it is modelled to take."""

    config: Config
    """The run in this layout."""
    degrees: dict[str, int]
    """Kind of parallelism -> degree."""
    bytes: DeviceBytes
    """Of a device."""
    time: StepTime
    """Of a step."""


@dataclass(frozen=True)
class Ranking:
    """The best layouts, the fastest first."""

    best: tuple[Ranked, ...]
    """They fit."""
    tried: int
    """Layouts that were looked at."""
    fitted: int
    """Those of them that fit."""
    seconds: float
    """What it took to look."""
    least: Ranked | None
    """Where none fits, the one that needs least."""


def rank(
    config: Config,
    machine: Machine,
    shape: str,
    nodes: int,
    software: Software,
    measured: Measured | None = None,
    precisions: Sequence[Precision] = ("fp32", "fp16"),
    most: int = 20,
) -> Ranking:
    """Look at every layout of a run, and return the fastest of each precision of those that fit.

    Args:
        config: the run, as its recipe gives it.
        machine: what it is to run on.
        shape: of its torus, as `mesh.shape` says it; empty where the machine is none.
        nodes: of the job.
        software: what is made of the machine.
        measured: what was measured on a node of it.
        precisions: those that a layout may have.
        most: layouts that are returned, as many of each precision.

    Raises:
        InputError: no layout divides the nodes, the batch and the model.
    """
    start, tried, fitted = time.perf_counter(), 0, 0
    locals_ = sorted({1, machine.node.core_groups})
    links: dict[tuple[int, ...], StepLinks] = {}
    rates: dict[int, Rates] = {}
    for local in locals_:
        rates[local] = device_rates(machine, local, software, measured)
    best: dict[str, list[tuple[float, int, Ranked]]] = {each: [] for each in precisions}
    least: Ranked | None = None

    def found(each: Config, degrees: dict[str, int], *, exact: bool) -> StepTime:
        local = each.mesh.local
        key = (*degrees.values(), local)
        if key not in links:
            assignment = assign_axes(each.mesh, nodes * local)
            shares = software.links, software.gradient_links
            links[key] = StepLinks(machine, assignment, each.mesh.collective, *shares)
        return model_step(each, degrees, rates[local], links[key], exact=exact)

    is_torus = machine.network.topology == "torus"
    collective = "torus" if is_torus else config.mesh.collective
    config = replace(config, mesh=replace(config.mesh, shape=shape, collective=collective))
    for local in locals_:
        for degrees in degrees_of(config, nodes * local, local):
            for savings in options(config, degrees, local, precisions):
                for each in savings:
                    tried += 1
                    bytes_ = model_bytes(each, step_work(each, degrees))
                    if fits(bytes_, machine.node.job_bytes / local):
                        break
                    if not fitted and (least is None or bytes_.total < least.bytes.total):
                        least = Ranked(each, degrees, bytes_, found(each, degrees, exact=False))
                else:
                    continue
                fitted += 1
                ranked = Ranked(each, degrees, bytes_, found(each, degrees, exact=False))
                entry = (-ranked.time.seconds, tried, ranked)
                among = best[each.training.precision]
                if len(among) < max(most, _AGAIN):
                    heapq.heappush(among, entry)
                else:
                    heapq.heappushpop(among, entry)
    if not tried:
        raise InputError(
            f"No layout divides {nodes:,} nodes, the {config.training.batch_size} samples of a "
            f"step, the model's {config.model.n_heads} heads and its {config.model.n_layers} "
            "layers; other nodes or another training.batch_size would do."
        )
    fastest: list[Ranked] = []
    for among in best.values():
        again = [replace(r, time=found(r.config, r.degrees, exact=True)) for _, _, r in among]
        again.sort(key=_seconds)
        fastest += again[: most // len(precisions)]
    fastest.sort(key=_seconds)
    seconds = time.perf_counter() - start
    return Ranking(tuple(fastest), tried, fitted, seconds, None if fitted else least)


def _seconds(ranked: Ranked) -> float:
    return ranked.time.seconds
