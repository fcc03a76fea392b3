"""Ranks the layouts that a run could have on a machine by their modelled step."""

import heapq
import time
from collections.abc import Iterable, Sequence
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
    start = time.perf_counter()
    network = machine.network.topology
    collective = "torus" if network == "torus" else config.mesh.collective
    config = replace(config, mesh=replace(config.mesh, shape=shape, collective=collective))
    found = _Found(_Timed(machine, nodes, software, measured), precisions, max(most, _AGAIN))
    for local in found.timed.rates:
        for degrees in degrees_of(config, nodes * local, local):
            for savings in options(config, degrees, local, precisions):
                found.look_at(savings, degrees)
    if not found.tried:
        raise InputError(
            f"No layout divides {nodes:,} nodes, the {config.training.batch_size} samples of a "
            f"step, the model's {config.model.n_heads} heads and its {config.model.n_layers} "
            "layers; other nodes or another training.batch_size would do."
        )
    fastest = sorted(
        (
            each
            for precision in precisions
            for each in found.fastest(precision)[: most // len(precisions)]
        ),
        key=_seconds,
    )
    seconds = time.perf_counter() - start
    least = None if found.fitted else found.least
    return Ranking(tuple(fastest), found.tried, found.fitted, seconds, least)


class _Timed:
    """The modelled steps of layouts on the nodes of a job; what they have in common is kept."""

    def __init__(
        self, machine: Machine, nodes: int, software: Software, measured: Measured | None
    ) -> None:
        self.machine, self.nodes, self.software = machine, nodes, software
        self.rates: dict[int, Rates] = {
            local: device_rates(machine, local, software, measured)
            for local in sorted({1, machine.node.core_groups})
        }
        self._links: dict[tuple[int, ...], StepLinks] = {}

    def step(self, config: Config, degrees: dict[str, int], *, exact: bool) -> StepTime:
        local = config.mesh.local
        key = (*degrees.values(), local)
        if key not in self._links:
            assignment = assign_axes(config.mesh, self.nodes * local)
            shares = self.software.links, self.software.gradient_links
            collective = config.mesh.collective
            self._links[key] = StepLinks(self.machine, assignment, collective, *shares)
        return model_step(config, degrees, self.rates[local], self._links[key], exact=exact)


class _Found:
    """The fastest layouts of each precision so far."""

    def __init__(self, timed: _Timed, precisions: Sequence[Precision], kept: int) -> None:
        self.timed, self.kept = timed, kept
        self.tried = self.fitted = 0
        self.least: Ranked | None = None
        self._best: dict[str, list[tuple[float, int, Ranked]]] = {each: [] for each in precisions}

    def look_at(self, savings: Iterable[Config], degrees: dict[str, int]) -> None:
        """Take the first of a layout's ways to save memory that fits."""
        machine = self.timed.machine
        for config in savings:
            self.tried += 1
            bytes_ = model_bytes(config, step_work(config, degrees))
            fitting = fits(bytes_, machine.node.job_bytes / config.mesh.local)
            smaller = self.least is None or bytes_.total < self.least.bytes.total
            if not fitting and (self.fitted or not smaller):
                continue
            time_ = self.timed.step(config, degrees, exact=False)
            ranked = Ranked(config, degrees, bytes_, time_)
            if fitting:
                return self._keep(ranked)
            self.least = ranked
        return None

    def _keep(self, ranked: Ranked) -> None:
        self.fitted += 1
        entry = (-ranked.time.seconds, self.tried, ranked)
        among = self._best[ranked.config.training.precision]
        if len(among) < self.kept:
            heapq.heappush(among, entry)
        else:
            heapq.heappushpop(among, entry)

    def fastest(self, precision: Precision) -> list[Ranked]:
        """Return those that are kept of a precision in the order that their tables say."""
        again = (
            replace(each, time=self.timed.step(each.config, each.degrees, exact=True))
            for _, _, each in self._best[precision]
        )
        return sorted(again, key=_seconds)


def _seconds(ranked: Ranked) -> float:
    return ranked.time.seconds
