"""The step-time model beside measured steps: small layouts of one to four processes, this machine.

The model is given the speed of this machine's kernels at the layouts' own shapes, measured in the
same run with all cores, of which each process has its part; what joins the processes is taken from
the machine's file.
"""

import dataclasses
import os
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from fugaku_jax.benchmarks.attentions import Attention
from fugaku_jax.benchmarks.kernels import Case, machine, run
from fugaku_jax.benchmarks.products import Product
from fugaku_jax.benchmarks.scaling import ScalingShape, run_step, step_config
from fugaku_jax.benchmarks.step_parts import PARTS
from fugaku_jax.benchmarks.updates import Update
from fugaku_jax.layout.assignment import without_torus
from fugaku_jax.planning.assumptions import OURS
from fugaku_jax.planning.links import StepLinks
from fugaku_jax.planning.measured import measured_of
from fugaku_jax.planning.rates import device_rates
from fugaku_jax.planning.step_time import StepTime, model_step
from fugaku_jax.planning.step_work import step_work
from fugaku_jax.tofu.machine import Machine


@dataclass(frozen=True)
class SmallLayout:
    """How some processes share a step."""

    name: str
    """By which it is asked for."""
    data: int
    tensor: int

    @property
    def processes(self) -> int:
        """How many there are."""
        return self.data * self.tensor

    @property
    def degrees(self) -> dict[str, int]:
        """Kind of parallelism -> degree."""
        return {"tensor": self.tensor, "context": 1, "data": self.data, "pipeline": 1}


LAYOUTS = (
    SmallLayout("one", 1, 1),
    SmallLayout("data", 2, 1),
    SmallLayout("tensor", 1, 2),
    SmallLayout("both", 2, 2),
)
_PARTS = {"tensor": "messages", "gradients": "messages"}
"""What kinds of modelled seconds are called among the measured parts."""


def compare(
    joined_by: Machine,
    rounds: int = 3,
    steps: int = 6,
    layouts: Sequence[SmallLayout] = LAYOUTS,
    say: Callable[[str], object] = lambda _: None,
) -> dict[str, Any]:
    """Measure kernels, and then each layout's step beside what the model says of it.

    Args:
        joined_by: a machine whose network is what joins processes here.
        rounds: timed calls of each kernel.
        steps: timed steps of each layout.
        layouts: which.
        say: is told what was measured.

    Returns:
        `kernels`, the figures that the model was given; `steps`, for each layout `contender`,
        `processes`, `measured_seconds` of the median step, `modelled_seconds`, their `ratio` and
        the machine's `load`; and `breakdown`, its measured and its modelled seconds by part
        (`step_parts.measured_parts`).

    Raises:
        RunError: a process failed.
    """
    shape = ScalingShape()
    figures: dict[str, Any] = {"machine": machine(rounds)}
    for name, cases in _cases(shape, layouts).items():
        figures[name] = run(cases, rounds, ("native",), say)
    rows, breakdown = [], []
    for layout in layouts:
        found = run_step(layout.processes, shape, steps, _mesh(layout))
        measured = statistics.median(found["seconds"])
        modelled = model(layout, shape, joined_by, figures)
        parts = dict.fromkeys(PARTS, 0.0)
        for kind, seconds in modelled.breakdown.items():
            if seconds:
                parts[_PARTS.get(kind, kind)] += seconds
        breakdown.append({"contender": f"{layout.name}, measured", **found["parts"]})
        breakdown.append({"contender": f"{layout.name}, modelled", **parts})
        row = {
            "contender": layout.name,
            "processes": layout.processes,
            "measured_seconds": measured,
            "modelled_seconds": modelled.seconds,
            "ratio": modelled.seconds / measured,
            "load": os.getloadavg()[0],
        }
        say(f"{layout.name}: {measured:.3f} s measured, {modelled.seconds:.3f} s modelled")
        rows.append(row)
    return {"kernels": figures, "steps": rows, "breakdown": breakdown}


def model(
    layout: SmallLayout, shape: ScalingShape, joined_by: Machine, figures: dict[str, Any]
) -> StepTime:
    """Model a layout's step from measured speeds of kernels.

    Args:
        layout: which.
        shape: of its model and of its replicas' rows.
        joined_by: as `compare`.
        figures: what the kernels' benchmark says of the machine.
    """
    config = step_config(dataclasses.asdict(shape), layout.data, _mesh(layout))
    rates = device_rates(joined_by, layout.processes, OURS, measured_of(figures, "this run"))
    links = StepLinks(joined_by, without_torus(layout.degrees), config.mesh.collective)
    return model_step(config, layout.degrees, rates, links)


def _mesh(layout: SmallLayout) -> dict[str, int]:
    return {"data": layout.data, "tensor": layout.tensor}


def _cases(shape: ScalingShape, layouts: Sequence[SmallLayout]) -> dict[str, list[Case]]:
    """Return the kernels' calls that the layouts' steps have."""
    products = dict.fromkeys(product for layout in layouts for product in _products(layout, shape))
    attention = Attention(
        shape.sequence_length,
        batch=shape.rows,
        heads=shape.n_heads,
        head_dim=shape.d_model // shape.n_heads,
    )
    update = Update(shape.n_layers, shape.d_model, shape.vocab_size)
    return {"products": list(products), "attention": [attention], "adamw": [update]}


def _products(layout: SmallLayout, shape: ScalingShape) -> Iterator[Product]:
    config = step_config(dataclasses.asdict(shape), layout.data, _mesh(layout))
    work = step_work(config, layout.degrees)
    for phase in (work.layer["forward"], work.layer["backward"], work.head):
        for each in phase.products:
            yield Product(each.rows, each.depth, each.columns)
