"""The best layouts of a run on the nodes of a job: ranked by the model, and then compiled."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fugaku_jax.config import Config, flat_fields
from fugaku_jax.errors import InputError
from fugaku_jax.planning.compile import CompiledStep, can_emulate, compile_emulated
from fugaku_jax.planning.job_plan import JobPlan, layout_of, on_nodes, plan_job
from fugaku_jax.planning.measured import Measured
from fugaku_jax.planning.ranking import Ranked, Ranking, rank
from fugaku_jax.planning.rates import Software
from fugaku_jax.spelling import size
from fugaku_jax.tofu.machine import Machine

COMPILED = 5
"""Layouts that are compiled: the best of those whose devices this machine can emulate."""


@dataclass(frozen=True)
class BestLayouts:
    """What a search has found."""

    asked: Config
    """The run on the nodes, in the layout of its recipe."""
    ranking: Ranking
    """All that is listed."""
    compiled: tuple[CompiledStep | None, ...]
    """The step of each of them, where it was compiled."""
    plan: JobPlan
    """Of the best whose compiled step fits."""


def best_layouts(
    config: Config,
    recipe: Path,
    machine: Machine,
    nodes: str,
    software: Software,
    measured: Measured | None = None,
    tokens: float | None = None,
) -> BestLayouts:
    """Search; arguments as of `plan_job`.

    Raises:
        InputError: as `plan_job`; no layout divides the nodes, or none of them fits.
    """
    on_them, count = on_nodes(config, machine, nodes)
    ranking = rank(config, machine, on_them.mesh.shape, count, software, measured)
    if ranking.least is not None:
        least, room = ranking.least, machine.node.job_bytes / ranking.least.config.mesh.local
        raise InputError(
            f"None of {ranking.tried:,} layouts fits {nodes} of {machine.name}: the one that needs "
            f"least, {arguments_of(config, least)}, is modelled to need "
            f"{size(least.bytes.total)} of a device that has {size(room)}; "
            "more nodes would help."
        )
    able = [each for each in ranking.best if can_emulate(count * each.config.mesh.local)]
    # Where none is, compiling says what is missing.
    chosen = able[:COMPILED] or ranking.best[:1]
    steps = iter(compile_emulated([each.config for each in chosen], [recipe] * len(chosen)))
    compiled = tuple(next(steps) if each in chosen else None for each in ranking.best)
    refusal: InputError | None = None
    for each, step in zip(ranking.best, compiled, strict=True):
        if step is None:
            continue
        try:
            plan = plan_job(each.config, recipe, machine, nodes, software, measured, tokens, step)
        except InputError as error:
            refusal = refusal or error
            continue
        return BestLayouts(on_them, ranking, compiled, plan)
    assert refusal is not None
    raise refusal


def ranking_as_json(found: BestLayouts) -> dict[str, Any]:
    """Return a search's part of the object that `launch/plan.py --search --json` prints."""
    ranking = found.ranking
    rows = [
        {
            "layout": layout_of(each.config, each.degrees),
            "arguments": arguments_of(found.plan.config, each),
            "step_seconds_modelled": each.time.seconds,
            "mfu_modelled": each.time.mfu,
            "breakdown": dict(each.time.breakdown),
            "bytes_modelled": each.bytes.total,
            "bytes_compiled": step and step.argument_bytes + step.temporary_bytes,
        }
        for each, step in zip(ranking.best, found.compiled, strict=True)
    ]
    return {
        "ranking": rows,
        "layouts_tried": ranking.tried,
        "layouts_that_fit": ranking.fitted,
        "search_seconds": ranking.seconds,
    }


def arguments_of(config: Config, ranked: Ranked) -> str:
    """Return the command line's arguments that make a run have a layout."""
    flat = flat_fields(ranked.config.to_dict())
    fields = [f"training.{name}" for name in ("micro_batches", "precision", "remat")]
    names = ("data", "tensor", "context", "pipeline", "local", "weights", "schedule", "chunks")
    fields += [f"mesh.{name}" for name in (*names, "recompute_stages", "collective")]
    words = [f"--{field.replace('_', '-')} {flat[field]}" for field in fields]
    words.append(f"--mesh.{'' if flat['mesh.sequence_parallel'] else 'no-'}sequence-parallel")
    if config.mesh.layers:
        words.append("--mesh.layers")
    return " ".join(words)
