"""What each lever contributes: from a run as Fugaku-LLM's was to the best layout, modelled.

The levers are pulled one after the other, and what each saves depends on those before it; their
order is from those that change the program to those that change the layout.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from fugaku_jax.config import Config
from fugaku_jax.planning.assumptions import AFTER, OURS
from fugaku_jax.planning.published import modelled_step
from fugaku_jax.planning.rates import Software
from fugaku_jax.tofu.machine import Machine


@dataclass(frozen=True)
class Lever:
    """A step after one more change."""

    name: str
    """What was changed."""
    seconds: float
    """Of a step, modelled."""
    saved: float
    """Seconds less than before it."""


SENSITIVITIES: dict[str, tuple[float, float]] = {
    "product": (0.5, 0.92),
    "stream": (0.05, 0.5),
    "spanning": (0.4, 1.0),
    "links": (0.5, 1.0),
    "gradient_links": (0.06, 0.54),
    "score_passes": (6.0, 24.0),
}
"""Ends between which an assumption on the original may have been."""


def levers(original: Config, best: Config, machine: Machine) -> list[Lever]:
    """Return the steps from a run's own layout and the original's software to ours.

    Args:
        original: the run, as `has_levers` says.
        best: that of the layout that a search found, degrees given.
        machine: a torus.
    """
    found: list[Lever] = []
    for name, config, software in _steps(original, best):
        seconds = modelled_step(config, machine, software).seconds
        saved = found[-1].seconds - seconds if found else 0.0
        found.append(Lever(name, seconds, saved))
    return found


def has_levers(run: Config, devices: int) -> bool:
    """Tell whether a run has all that is changed: a pipeline, and degrees for so many devices."""
    mesh, layers = run.mesh, run.model.n_layers
    degrees = mesh.tensor * mesh.context * mesh.data * mesh.pipeline
    return mesh.pipeline > 1 and layers % mesh.pipeline == 0 and degrees == devices


def _steps(original: Config, best: Config) -> Iterator[tuple[str, Config, Software]]:
    software, config = AFTER, original
    yield "the original", config, software
    software = replace(software, square_scores=False, score_passes=0.0)
    yield "attention without the square of scores", config, software
    software = replace(software, product=OURS.product)
    yield "our products", config, software
    software = replace(software, stream=OURS.stream)
    yield "functions beside the products in kernels", config, software
    software = replace(software, gradient_links=OURS.gradient_links)
    yield "sums of gradients on all links", config, software
    config = replace(config, mesh=replace(config.mesh, recompute_stages=0))
    yield "nothing recomputed", config, software
    config = replace(config, mesh=replace(config.mesh, weights="zero1"))
    yield "ZeRO-1", config, software
    chunks = config.model.n_layers // config.mesh.pipeline
    mesh = replace(config.mesh, schedule="interleaved", chunks=chunks)
    config = replace(config, mesh=mesh)
    yield f"interleaved schedule, {chunks} chunks", config, software
    fp32 = replace(best, training=replace(best.training, precision="fp32"))
    yield "the layout that the search found", fp32, software
    if best.training.precision != "fp32":
        yield f"{best.training.precision} products and messages", best, software


def sensitivities(original: Config, machine: Machine) -> dict[str, tuple[float, float]]:
    """Return the original's modelled seconds with each assumption at either end of its range."""
    found = {}
    for name, ends in SENSITIVITIES.items():
        steps = []
        for end in ends:
            value = dict.fromkeys(AFTER.product, end) if name == "product" else end
            changed = replace(AFTER, **{name: value})  # pyrefly: ignore
            steps.append(modelled_step(original, machine, changed).seconds)
        found[name] = (steps[0], steps[1])
    return found
