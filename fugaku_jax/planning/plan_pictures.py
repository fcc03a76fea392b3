"""Pictures of a planned job as inline SVG: the torus by role, a step's timeline, and bars.

Colours are `hsl(… var(--l))`: the page says for light and for dark how light they are.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from markupsafe import Markup, escape

from fugaku_jax.layout.assignment import Assignment
from fugaku_jax.pipeline.duration import simulate
from fugaku_jax.pipeline.schedule import Op
from fugaku_jax.planning.job_plan import JobPlan
from fugaku_jax.planning.step_time import schedule_of
from fugaku_jax.planning.unfold import unfold

_WIDTH = 1000.0  # units of a picture
_ROW, _GAP = 18.0, 4.0  # of a timeline
_LABEL = 70.0
_OPS = {
    Op.FORWARD: ("forward", 210),
    Op.BACKWARD: ("backward", 25),
    Op.BACKWARD_INPUT: ("backward, inputs", 25),
    Op.BACKWARD_WEIGHT: ("backward, weights", 285),
}
_UPDATE = {"gradients": ("sums of gradients", 150), "optimizer": ("optimizer", 60)}


def hue(index: int, count: int) -> str:
    """Return the colour of one of so many roles."""
    return f"hsl({360 * index / max(count, 1) + 200:.0f} 55% var(--l))"


def torus(shape: Sequence[int], assignment: Assignment, title: str) -> Markup:
    """Draw every node where it lies: the colour says the stage, pale ones every other tensor group.

    Args:
        shape: nodes along x y z a b c.
        assignment: what the axes between nodes carry.
        title: what the picture shows, for who cannot see it.
    """
    page = unfold(tuple(shape))
    scale = _WIDTH / max(float(page.corners[:, 0].max()) + page.square, 1.0)
    places = np.indices(assignment.shape).reshape(len(assignment.shape), -1)
    stage = np.zeros(places.shape[1], int)
    parity = np.zeros(places.shape[1], int)
    stages = 1
    for part, at in zip(assignment.parts, places, strict=True):
        if part.kind == "pipeline":
            stage = stage * part.size + at
            stages *= part.size
        elif part.kind != "tensor":
            parity += at
    side = page.square * scale * 0.9
    paths: dict[tuple[int, int], list[str]] = defaultdict(list)
    for s, p, (x, y) in zip(stage, parity % 2, page.corners * scale, strict=True):
        paths[int(s), int(p)].append(f"M{x:.1f} {y:.1f}h{side:.1f}v{side:.1f}h-{side:.1f}z")
    drawn = (
        f'<path d="{"".join(found)}" fill="{hue(s, stages)}" opacity="{0.55 if p else 1}">'
        f"<title>stage {s}</title></path>"
        for (s, p), found in sorted(paths.items())
    )
    height = float(page.corners[:, 1].max() + page.square) * scale
    return _svg(drawn, height, title)


def timeline(plan: JobPlan) -> Markup:
    """Draw a modelled step: a row for each stage, a box for each piece of work."""
    stages, costs = plan.degrees["pipeline"], plan.time.costs
    schedule = schedule_of(plan.config, stages)
    found = simulate(schedule, costs)
    unit = (_WIDTH - _LABEL) / plan.time.seconds
    boxes: dict[str, list[str]] = defaultdict(list)
    for stage, tick in zip(*np.nonzero(schedule.op != Op.IDLE), strict=True):
        start, end = found.start[stage, tick], found.end[stage, tick]
        name = _OPS[Op(schedule.op[stage, tick])][0]
        boxes[name].append(_box(start, end, int(stage), unit))
    after = found.makespan
    for kind in _UPDATE:
        end = after + plan.time.breakdown[kind]
        boxes[_UPDATE[kind][0]] += [_box(after, end, stage, unit) for stage in range(stages)]
        after = end
    colours = dict([*_OPS.values(), *_UPDATE.values()])
    drawn = [
        f'<path d="{"".join(paths)}" fill="hsl({colours[name]} 55% var(--l))"><title>{name}'
        "</title></path>"
        for name, paths in boxes.items()
    ]
    every = max(1, -(-stages // 24))
    drawn += [
        f'<text x="0" y="{_top(stage) + 13}" class="label">stage {stage}</text>'
        for stage in range(0, stages, every)
    ]
    bottom = _top(stages)
    drawn += [
        f'<text x="{_LABEL + share * (_WIDTH - _LABEL):.0f}" y="{bottom + 14}" class="label" '
        f'text-anchor="{anchor}">{share * plan.time.seconds:.2f} s</text>'
        for share, anchor in ((0, "start"), (0.5, "middle"), (1, "end"))
    ]
    return _svg(drawn, bottom + 20, "modelled timeline of one step")


def legend_of_timeline(plan: JobPlan) -> list[tuple[str, str]]:
    """Return the names and the colours of what a timeline shows."""
    used = [_OPS[op] for op in _OPS if op in plan.time.costs] + list(_UPDATE.values())
    return [(name, f"hsl({degrees} 55% var(--l))") for name, degrees in used]


def bars(rows: Mapping[str, Mapping[str, float]], most: float, title: str) -> Markup:
    """Draw a stacked bar for each row, all of one scale.

    Args:
        rows: name -> parts, each with its size.
        most: the size that the whole width stands for.
        title: what the picture shows.
    """
    kinds = list(dict.fromkeys(kind for parts in rows.values() for kind in parts))
    drawn: list[str] = []
    for row, (name, parts) in enumerate(rows.items()):
        drawn.append(f'<text x="0" y="{_top(row) + 13}" class="label">{escape(name)}</text>')
        at = 0.0
        for kind, size in parts.items():
            box = _box(at, at + size, row, (_WIDTH - _LABEL) / most)
            colour = hue(kinds.index(kind), len(kinds))
            drawn.append(f'<path d="{box}" fill="{colour}"><title>{escape(kind)}</title></path>')
            at += size
    return _svg(drawn, _top(len(rows)), title)


def _top(row: int) -> float:
    return row * (_ROW + _GAP)


def _box(start: float, end: float, row: int, unit: float) -> str:
    width = max((end - start) * unit - 0.4, 0.2)
    return f"M{_LABEL + start * unit:.1f} {_top(row):.0f}h{width:.1f}v{_ROW}h-{width:.1f}z"


def _svg(drawn: Iterable[str], height: float, title: str) -> Markup:
    return Markup(  # all text in it was escaped, or is ours
        f'<svg viewBox="0 0 {_WIDTH:.0f} {height:.0f}" role="img" aria-label="{escape(title)}">'
        + "".join(drawn)
        + "</svg>"
    )
