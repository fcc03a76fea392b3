"""One page about a planned job, which a browser shows without a network and without scripts."""

from importlib import resources
from pathlib import Path
from typing import Any

import jinja2

from fugaku_jax.errors import InputError
from fugaku_jax.layout.assignment import Assignment
from fugaku_jax.layout.rules import LOCAL_AXIS
from fugaku_jax.planning import plan_pictures
from fugaku_jax.planning.best_layouts import BestLayouts, ranking_as_json
from fugaku_jax.planning.job_plan import JobPlan, as_json
from fugaku_jax.planning.levers import Lever, has_levers, levers
from fugaku_jax.spelling import duration, size
from fugaku_jax.tofu.topology import AXES


def write_page(plan: JobPlan, name: str, found: BestLayouts | None, out: Path) -> Path:
    """Draw the page of a plan.

    Args:
        plan: what is planned.
        name: of its recipe.
        found: the search that it comes from, if any.
        out: the HTML file to write; replaced if it is there.

    Returns:
        `out`.

    Raises:
        InputError: it cannot be written.
    """
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["size"] = size
    file = resources.files("fugaku_jax.planning") / "plan.html.jinja"
    template = environment.from_string(file.read_text(encoding="utf-8"))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(template.render(_page(plan, name, found)), encoding="utf-8")
    except OSError as error:
        raise InputError(f"{out} cannot be written: {error.strerror}.") from None
    return out


def _page(plan: JobPlan, name: str, found: BestLayouts | None) -> dict[str, Any]:
    parts = plan.links.assignment.parts
    nodes = Assignment(tuple(part for part in parts if part.name != LOCAL_AXIS))
    shape = [1] * len(AXES)
    for part in nodes.parts:
        shape[AXES.index(part.name[0])] *= part.size
    room = plan.machine.node.job_bytes / plan.config.mesh.local
    shown = as_json(plan)
    kinds = ("parameters", "optimizer", "temporaries")
    held = {
        "compiled": {kind: float(getattr(plan.bytes, kind)) for kind in kinds},
        "modelled": {kind: float(getattr(plan.modelled_bytes, kind)) for kind in kinds},
    }
    most = max(room, plan.bytes.total, plan.modelled_bytes.total)
    breakdown = sorted(plan.time.breakdown.items(), key=lambda item: -item[1])
    layout = ", ".join(f"{kind} {n}" for kind, n in plan.degrees.items())
    return {
        "name": name,
        "plan": shown,
        "layout": layout,
        "tiles": {
            "step, modelled": f"{plan.time.seconds:.2f} s",
            "of the peak (MFU), modelled": f"{plan.time.mfu:.1%}",
            "whole run, modelled": duration(plan.run.seconds),
            "node-hours, modelled": f"{plan.run.node_hours:,.0f}",
            "bytes on a device, compiled": f"{size(plan.bytes.total)} of {size(room)}",
            "largest group": str(plan.compiled.largest_group),
            "compiled in": f"{plan.compiled.seconds:.1f} s",
        },
        "torus": plan_pictures.torus(shape, nodes, f"nodes of {plan.nodes} by role"),
        "stages": [
            (f"stage {s}", plan_pictures.hue(s, plan.degrees["pipeline"]))
            for s in range(min(plan.degrees["pipeline"], 16))
        ],
        "timeline": plan_pictures.timeline(plan),
        "timeline_legend": plan_pictures.legend_of_timeline(plan),
        "memory": plan_pictures.bars(held, most, "bytes on a device"),
        "memory_legend": [(kind, plan_pictures.hue(i, len(kinds))) for i, kind in enumerate(kinds)],
        "bytes": held,
        "room": room,
        "breakdown": breakdown,
        "ranking": ranking_as_json(found) if found else None,
        "levers": _levers(plan, found) if found else {},
        "slowest": found.ranking.best[-1].time.seconds if found else 1.0,
    }


def _levers(plan: JobPlan, found: BestLayouts) -> dict[str, list[Lever]]:
    """Return the way to the best layout of each precision, where the recipe's own has one."""
    is_torus = plan.machine.network.topology == "torus"
    if not is_torus or not has_levers(found.asked, plan.compiled.devices):
        return {}
    best = {each.config.training.precision: each.config for each in reversed(found.ranking.best)}
    return {name: levers(found.asked, best[name], plan.machine) for name in sorted(best)}
