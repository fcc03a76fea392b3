"""A picture of a pipeline schedule: what each stage does when, and where it is idle."""

import colorsys
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from fugaku_jax.pipeline.duration import Timeline, simulate
from fugaku_jax.pipeline.schedule import Op, Schedule
from fugaku_jax.report import svg

_NAMES = {
    Op.FORWARD: "forward",
    Op.BACKWARD: "backward",
    Op.BACKWARD_INPUT: "backward, input half",
    Op.BACKWARD_WEIGHT: "backward, weight half",
}
_HUES = {
    Op.FORWARD: 0.6,
    Op.BACKWARD: 0.06,
    Op.BACKWARD_INPUT: 0.06,
    Op.BACKWARD_WEIGHT: 0.4,
}
_WIDTHS = (6.0, 15.0)  # inches, at least and at most
_TICK = 0.2  # inches that a forward is wide, if these limits allow
_ROW = 0.3  # inches
_FONT = 7.0  # points, of the numbers in the boxes
_DIGIT = 0.64  # widths of a digit in font sizes
_SHAPES = 10_000  # boxes at most that are shapes in the SVG; more become one image in it
_IN_LEGEND = 6  # chunks at most
_INK = "#30363d"
_IDLE = "#eceef0"


def draw_schedule(schedule: Schedule, path: Path) -> Path:
    """Draw a row of boxes for each stage, along modelled time.

    Times are those of `schedule_time.simulate`: both sides of an exchange wait for each other, and
    a backward takes two forwards. The colour says what is done, the lightness in which chunk; a
    box that is wide enough bears the number of its micro-batch. Pale ground is idle time.

    Args:
        schedule: a table that `schedule_check.check` accepts.
        path: the `.svg` file to write; the same for the same input.

    Returns:
        `path`.

    Raises:
        InputError: the path does not end in `.svg` or cannot be written.
    """
    svg.check_name(path)
    timeline = simulate(schedule)
    width = float(np.clip(timeline.makespan * _TICK, *_WIDTHS))
    figure = Figure((width + 1, schedule.stages * _ROW + 1.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set(xlim=(0, timeline.makespan), ylim=(schedule.stages - 0.5, -0.5))
    axes.barh(range(schedule.stages), timeline.makespan, height=0.84, color=_IDLE)
    _add_boxes(axes, schedule, timeline, width * 72 / timeline.makespan)
    _label_axes(axes, schedule)
    axes.set_title(_title(schedule, timeline), color=_INK, fontsize=11, loc="left")
    _add_legend(figure, schedule)
    return svg.save(figure, path)


def _add_boxes(axes: Axes, schedule: Schedule, timeline: Timeline, points: float) -> None:
    """Args: points that a unit of time is wide."""
    stages, ticks = np.nonzero(schedule.op != Op.IDLE)
    ops, chunks = schedule.op[stages, ticks], schedule.chunk[stages, ticks]
    start, end = timeline.start[stages, ticks], timeline.end[stages, ticks]
    kinds = zip(ops.tolist(), chunks.tolist(), strict=True)
    colours = [_colour(Op(op), chunk, schedule.chunks) for op, chunk in kinds]
    top, bottom = stages - 0.42, stages + 0.42
    outlines = np.stack([start, top, end, top, end, bottom, start, bottom], axis=-1)
    boxes = PolyCollection(list(outlines.reshape(-1, 4, 2)), facecolors=colours)
    boxes.set(edgecolors="white", linewidth=min(0.5, points * 0.05), rasterized=len(ops) > _SHAPES)
    boxes.set_in_layout(False)  # the axes' limits say as much, in no time
    axes.add_collection(boxes)
    for index, number in enumerate(schedule.micro_batch[stages, ticks].tolist()):
        if (end[index] - start[index]) * points < (len(str(number)) * _DIGIT + 0.3) * _FONT:
            continue
        ink = "black" if np.dot(colours[index], (0.3, 0.59, 0.11)) > 0.5 else "white"
        middle = (start[index] + end[index]) / 2
        label = axes.text(middle, stages[index], str(number), color=ink, fontsize=_FONT)
        label.set(ha="center", va="center_baseline", in_layout=False)


def _colour(op: Op, chunk: int, chunks: int) -> tuple[float, float, float]:
    lightness = 0.4 + 0.4 * chunk / max(chunks - 1, 1)
    return colorsys.hls_to_rgb(_HUES[op], lightness, 0.65)


def _label_axes(axes: Axes, schedule: Schedule) -> None:
    axes.set_yticks(range(schedule.stages), [f"stage {s}" for s in range(schedule.stages)])
    axes.set_xlabel("modelled time, in forwards of a chunk", color=_INK, fontsize=9)
    axes.tick_params(length=0, labelcolor=_INK, labelsize=8)
    axes.spines[:].set_visible(False)


def _title(schedule: Schedule, timeline: Timeline) -> str:
    parts = [
        schedule.kind.replace("_", " "),
        _count(schedule.stages, "stage"),
        _count(schedule.micro_batches, "micro-batch"),
    ]
    if schedule.chunks > 1:
        parts.append(f"{schedule.chunks} chunks a stage")
    return f"{' · '.join(parts)}\nmodelled bubble {timeline.idle_fraction:.1%}"


def _count(number: int, name: str) -> str:
    plural = name + ("es" if name.endswith("ch") else "s")
    return f"{number} {name if number == 1 else plural}"


def _add_legend(figure: Figure, schedule: Schedule) -> None:
    done = [op for op in _NAMES if (schedule.op == op).any()]
    shown = np.unique(np.linspace(0, schedule.chunks - 1, min(schedule.chunks, _IN_LEGEND)))
    handles = []
    for op in done:
        for chunk in shown.astype(int).tolist():
            label = f"{_NAMES[op]}, chunk {chunk}" if schedule.chunks > 1 else _NAMES[op]
            handles.append(Patch(facecolor=_colour(op, chunk, schedule.chunks), label=label))
    handles.append(Patch(facecolor=_IDLE, label="idle"))
    # Entries fill column by column, and as evenly as can be: blank ones keep each kind together.
    handles += [Patch(alpha=0, label=" ")] * (len(shown) - 1)
    figure.legend(
        handles=handles,
        loc="outside lower left",
        ncols=len(done) + 1,
        labelcolor=_INK,
        fontsize=8,
        frameon=False,
    )
