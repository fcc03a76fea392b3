"""The runs of Fugaku-LLM's authors that are public, and the step-time model fitted to them.

The runs of 2023 are the tables of github.com/Fugaku-LLM/DeepSpeedFugaku, experiments/
124m_13b_benchmarking, and the authors' figures for the largest: PyTorch 1.10, fp32, one process a
node at 2.0 GHz, micro-batches of 1. Their TFLOP/s count what is recomputed as work.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from fugaku_jax.config import Config, MeshConfig, ModelConfig, OptimizerConfig, TrainingConfig
from fugaku_jax.layout.mesh import assign_axes
from fugaku_jax.layout.torus import torus_shape
from fugaku_jax.models.size import flops_per_token
from fugaku_jax.planning.links import StepLinks
from fugaku_jax.planning.rates import Software, device_rates
from fugaku_jax.planning.step_time import StepTime, model_step
from fugaku_jax.tofu.machine import Machine

_MOST_SIMULATED = 1000  # micro-batches of stages
CLOCK = 2.0 / 2.2
"""Of these runs, over that of the machine's file."""


@dataclass(frozen=True)
class PublishedRun:
    """A run whose speed is known."""

    name: str
    """Model and nodes."""
    model: ModelConfig
    """Its shape."""
    batch: int
    """Samples a step."""
    shape: str
    """Of the torus that the job may have had, as `mesh.shape`."""
    tensor: int
    """Devices that share a layer."""
    pipeline: int
    """Stages."""
    recomputes: bool
    """Whether all layers are computed again on the way back."""
    tflops: float
    """Measured, a node."""

    @property
    def nodes(self) -> int:
        """How many."""
        return math.prod(torus_shape(self.shape))

    @property
    def config(self) -> Config:
        """The run as one of ours."""
        data = self.nodes // (self.tensor * self.pipeline)
        return Config(
            model=self.model,
            optimizer=OptimizerConfig(learning_rate=1e-4),
            training=TrainingConfig(
                steps=1,
                batch_size=self.batch,
                micro_batches=self.batch // data,
                remat="block" if self.recomputes else "none",
            ),
            mesh=MeshConfig(
                data=data, tensor=self.tensor, pipeline=self.pipeline, shape=self.shape
            ),
        )


def _model(layers: int, width: int, heads: int, length: int) -> ModelConfig:
    return ModelConfig(50_257, layers, width, heads, length, vocab_multiple=1024)


_1_3B, _13B, _30B = (
    _model(24, 2048, 32, 1024),
    _model(40, 5120, 40, 1024),
    _model(48, 7168, 56, 2048),
)
RUNS = (
    PublishedRun("1.3B, 4 nodes", _1_3B, 1024, "2x2x1", 4, 1, False, 0.86),
    PublishedRun("1.3B, 64 nodes", _1_3B, 1024, "4x4x4", 4, 1, False, 0.84),
    PublishedRun("1.3B, 4,096 nodes", _1_3B, 1024, "8x8x16x2x1x2", 4, 1, False, 0.41),
    PublishedRun("13B, 20 nodes", _13B, 1024, "5x2x2", 20, 1, True, 0.72),
    PublishedRun("30B, 192 nodes", _30B, 1536, "8x6x4", 4, 48, True, 1.16),
    PublishedRun("30B, 384 nodes", _30B, 1536, "8x6x8", 8, 48, True, 0.88),
    PublishedRun("30B, 3,072 nodes", _30B, 1536, "16x12x16:torus", 4, 48, True, 0.82),
    PublishedRun("30B, 6,144 nodes", _30B, 1536, "32x12x16:torus", 4, 48, True, 0.505),
)
"""All whose layout is known, with a micro-batch of 1; but for one of 48 nodes that ran out of
memory after its first step."""
_ENDS = ("1.3B, 4 nodes", "1.3B, 4,096 nodes", "30B, 192 nodes", "30B, 6,144 nodes")
FITTED = tuple(run for run in RUNS if run.name in _ENDS)
"""The fewest and the most nodes of each of the two models that were scaled."""
HELD_OUT = tuple(run for run in RUNS if run.name not in _ENDS)
"""The others, which show what the fit is worth."""


def modelled_tflops(run: PublishedRun, machine: Machine, software: Software) -> float:
    """Return what the step-time model says of a run, in the authors' TFLOP/s a node.

    Args:
        run: which.
        machine: Fugaku, at the clock of its file.
        software: what the run's programs made of it.
    """
    seconds = modelled_step(run.config, machine, software, CLOCK).seconds
    work = flops_per_token(run.model) * run.config.tokens_per_step
    return work * (4 / 3 if run.recomputes else 1) / seconds / run.nodes / 1e12


def modelled_step(
    config: Config, machine: Machine, software: Software, clock: float = 1.0
) -> StepTime:
    """Model a step on all nodes of its mesh's torus; of a large schedule by its formula.

    Args:
        config: the run, its degrees given.
        machine: whose nodes.
        software: what is made of it.
        clock: of the processors, over that of the machine's file.
    """
    mesh = config.mesh
    degrees = {
        "tensor": mesh.tensor,
        "context": mesh.context,
        "data": mesh.data,
        "pipeline": mesh.pipeline,
    }
    assignment = assign_axes(mesh, math.prod(degrees.values()))
    links = StepLinks(machine, assignment, "torus", software.links, software.gradient_links)
    rates = device_rates(machine, mesh.local, software)
    slowed = {precision: peak * clock for precision, peak in rates.peak.items()}
    small = mesh.pipeline * config.training.micro_batches <= _MOST_SIMULATED
    return model_step(config, degrees, replace(rates, peak=slowed), links, exact=small)


def fit(
    start: Software, machine: Machine, runs: Sequence[PublishedRun], rounds: int = 60
) -> Software:
    """Fit the shares of products and of both kinds of links to runs.

    The sum of the squares of log(modelled / measured) is made least by steps along one logarithm
    after the other; where none of them helps, they are halved. No share is more than 1.

    Args:
        start: everything else, and where to begin.
        machine: Fugaku.
        runs: those that are fitted.
        rounds: of steps.
    """
    best, step = start, 0.5
    least = _misfit(best, machine, runs)
    for _ in range(rounds):
        before = least
        for name in ("product", "links", "gradient_links"):
            for factor in (math.exp(step), math.exp(-step)):
                each = _scaled(best, name, factor)
                if (found := _misfit(each, machine, runs)) < least:
                    best, least = each, found
                    break
        step = step if least < 0.999 * before else step / 2
    return best


def _scaled(software: Software, name: str, factor: float) -> Software:
    if name == "product":
        product = min(software.product["fp32"] * factor, 1.0)
        return replace(software, product=dict.fromkeys(software.product, product))
    share: dict[str, Any] = {name: min(getattr(software, name) * factor, 1.0)}
    return replace(software, **share)


def _misfit(software: Software, machine: Machine, runs: Sequence[PublishedRun]) -> float:
    ratios = (modelled_tflops(run, machine, software) / run.tflops for run in runs)
    return sum(math.log(ratio) ** 2 for ratio in ratios)
