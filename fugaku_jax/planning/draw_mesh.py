"""A picture of the 6D torus unfolded, every device coloured by what it does."""

import math
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PolyCollection
from matplotlib.colors import hsv_to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from fugaku_jax.layout.assignment import Assignment
from fugaku_jax.layout.factors import KINDS
from fugaku_jax.planning.unfold import Page, unfold
from fugaku_jax.report import svg
from fugaku_jax.tofu.topology import AXES

# All lengths are inches.
_LEFT, _RIGHT, _TOP, _BOTTOM = 0.5, 3.4, 0.7, 0.8  # margins; the legend stands in the right one
_ENTRY = 0.17  # height of a line in the legend
_LABELLED = 100  # devices at most that are labelled one by one
_SHAPES = 2000  # devices at most that are shapes in the SVG; more become one image in it
_IN_LEGEND = 16  # stages at most
_LETTERS = {"pipeline": "s", "data": "r", "context": "c", "tensor": "t"}
_INK = "#30363d"


def draw_mesh(shape: tuple[int, ...], assignment: Assignment, path: Path) -> Path:
    """Draw every device of a mesh as a square, where it lies on the torus.

    The devices of a unit, on the last three axes, form a block. Of the other axes the longest goes
    to the right, in several lines where the picture would become too wide, the second down, and
    along the shortest units stand beside each other. The hue says the pipeline stage, the
    lightness the replica; where colours change between full and pale, so does the tensor group.
    Few devices are labelled with their rank and their place in each kind of parallelism.

    Args:
        shape: devices along x y z a b c.
        assignment: what these axes carry.
        path: the `.svg` file to write; the same for the same input.

    Returns:
        `path`.

    Raises:
        InputError: the path does not end in `.svg` or cannot be written.
    """
    svg.check_name(path)
    page = unfold(shape)
    ranks = {kind: _ranks(assignment, kind) for kind in KINDS}
    colours = _colours(ranks, _group_parity(assignment))
    entries = _legend(assignment, ranks)
    figure, axes = _figure(page, len(entries))
    square = page.square
    outlines = page.corners[:, None] + square * np.array([(0, 0), (1, 0), (1, 1), (0, 1)])
    squares = PolyCollection(outlines, facecolors=colours, edgecolors="white")  # pyrefly: ignore
    squares.set(linewidth=min(1.5, square * 6), rasterized=len(colours) > _SHAPES)
    axes.add_collection(squares)
    if len(colours) <= _LABELLED:
        _label_devices(axes, page, ranks, colours)
    _label_places(axes, page, shape)
    _add_text(axes, page, shape, ranks)
    if entries:
        _add_legend(axes, entries)
    return svg.save(figure, path)


def _figure(page: Page, entries: int) -> tuple[Figure, Axes]:
    """A figure of the right size, whose axes measure inches from the upper left square."""
    width, height = page.corners.max(axis=0) + page.square
    width, height = max(width, 3.0), max(height, entries * _ENTRY - _BOTTOM)
    figure = Figure(figsize=(_LEFT + width + _RIGHT, _TOP + height + _BOTTOM))
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(-_LEFT, width + _RIGHT), ylim=(height + _BOTTOM, -_TOP))
    axes.axis("off")
    return figure, axes


def _ranks(assignment: Assignment, kind: str) -> Int[np.ndarray, " N"]:
    """Each device's place among those that share a kind of parallelism."""
    return _count(assignment, [part.kind == kind for part in assignment.parts])


def _group_parity(assignment: Assignment) -> Int[np.ndarray, " N"]:
    """0 or 1 for each tensor group, by turns along every axis."""
    total = np.zeros(math.prod(assignment.shape), int)
    if assignment.axes("tensor"):
        for axis in AXES:
            parts = [part.name[0] == axis and part.kind != "tensor" for part in assignment.parts]
            total += _count(assignment, parts)
    return total % 2


def _count(assignment: Assignment, counted: list[bool]) -> np.ndarray:
    """The number that each device's indices along the counted parts form."""
    at = np.indices(assignment.shape).reshape(len(assignment.shape), -1)
    number = np.zeros(at.shape[1], int)
    for index, size, is_counted in zip(at, assignment.shape, counted, strict=True):
        if is_counted:
            number = number * size + index
    return number


def _colours(
    ranks: dict[str, Int[np.ndarray, " N"]], parity: Int[np.ndarray, " N"]
) -> Float[np.ndarray, "N 3"]:
    stages = ranks["pipeline"] / (ranks["pipeline"].max() + 1)
    return _colour(stages, ranks["data"] / max(ranks["data"].max(), 1), parity)


def _colour(stage, replica, parity) -> np.ndarray:
    """From a stage and a replica as fractions of all: hue, lightness and saturation, as RGB."""
    lightness = 0.38 + 0.4 * np.asarray(replica)
    saturation = np.where(parity, 0.3, 0.75)
    value = lightness + saturation * np.minimum(lightness, 1 - lightness)
    return hsv_to_rgb(np.stack([(0.6 + stage) % 1, 2 * (1 - lightness / value), value], axis=-1))


def _label_devices(
    axes: Axes, page: Page, ranks: dict[str, np.ndarray], colours: np.ndarray
) -> None:
    shown = [kind for kind in _LETTERS if ranks[kind].max() > 0]
    size = page.square * 14
    for rank, (corner, colour) in enumerate(zip(page.corners, colours, strict=True)):
        roles = " ".join(f"{_LETTERS[kind]}{ranks[kind][rank]}" for kind in shown)
        ink = "black" if colour @ (0.3, 0.59, 0.11) > 0.5 else "white"
        style = {"ha": "center", "color": ink}
        x, y = corner + page.square / 2
        axes.text(x, y, str(rank), va="bottom", fontsize=size, **style)
        axes.text(x, y + 0.05, roles, va="top", fontsize=size * 0.6, **style)


def _label_places(axes: Axes, page: Page, shape: tuple[int, ...]) -> None:
    style = {"color": _INK, "fontsize": 8}
    if shape[page.across] > 1:
        each = math.ceil(0.3 / page.step[0])
        for index in range(0, shape[page.across], each):
            line, column = divmod(index, page.per_line)
            x, y = column * page.step[0] + page.place[0] / 2, line * page.line - 0.05
            name = "" if index else f"{AXES[page.across]} "
            axes.text(x, y, f"{name}{index}", ha="center", va="bottom", **style)
    if shape[page.down] > 1:
        each = math.ceil(0.15 / page.step[1])
        for line in range(math.ceil(shape[page.across] / page.per_line)):
            for index in range(0, shape[page.down], each):
                y = line * page.line + index * page.step[1] + page.place[1] / 2
                name = "" if index else f"{AXES[page.down]} "
                axes.text(-0.08, y, f"{name}{index}", ha="right", va="center", **style)


def _add_text(axes: Axes, page: Page, shape: tuple[int, ...], ranks: dict[str, np.ndarray]) -> None:
    """The title, and how to read the picture."""
    devices = math.prod(shape)
    title = f"{devices:,} device{'' if devices == 1 else 's'}, {'x'.join(map(str, shape))}"
    axes.text(0, 0.35 - _TOP, title, color=_INK, fontsize=12, va="bottom")
    ways = {
        "in a block": (
            (page.unit_across, "to the right"),
            *((a, "down") for a in page.unit_down),
        ),
        "from block to block": (
            (page.beside, "side by side"),
            (page.across, "to the right"),
            (page.down, "down"),
        ),
    }
    lines = []
    for where, axes_of_it in ways.items():
        told = [f"{AXES[axis]} {way}" for axis, way in axes_of_it if shape[axis] > 1]
        if told:
            lines.append(f"{where}: {', '.join(told)}")
    if devices <= _LABELLED:
        named = {"pipeline": "stage", "data": "replica", "context": "context", "tensor": "tensor"}
        shown = [f"{_LETTERS[kind]} {named[kind]}" for kind in _LETTERS if ranks[kind].max() > 0]
        lines.append(", ".join(["in a square: rank", *shown]))
    below = page.corners[:, 1].max() + page.square + 0.15
    axes.text(0, below, "\n".join(lines), color=_INK, fontsize=8, va="top", linespacing=1.5)


def _legend(assignment: Assignment, ranks: dict[str, np.ndarray]) -> list[tuple[str, Any]]:
    """Each kind of parallelism with the axes that carry it (no colour), then its colours."""
    stages, replicas = (ranks[kind].max() + 1 for kind in ("pipeline", "data"))
    shown = np.unique(np.linspace(0, stages - 1, min(stages, _IN_LEGEND)).astype(int))
    colours = {
        "pipeline": [(f"stage {stage}", _colour(stage / stages, 0.3, 0)) for stage in shown],
        "data": [("replica 0", _colour(0, 0, 0)), (f"replica {replicas - 1}", _colour(0, 1, 0))],
        "tensor": [("a group", _colour(0, 0.3, 0)), ("the one beside it", _colour(0, 0.3, 1))],
    }
    entries: list[tuple[str, Any]] = []
    for kind in reversed(KINDS):
        parts = [part for part in assignment.parts if part.kind == kind and part.size > 1]
        if parts:
            carried = " ".join(f"{part.name}={part.size}" for part in parts)
            entries.append((f"{kind} {math.prod(part.size for part in parts)} on {carried}", None))
            entries += colours.get(kind, [])
    return entries


def _add_legend(axes: Axes, entries: list[tuple[str, Any]]) -> None:
    legend = axes.legend(
        handles=[
            Patch(facecolor="none" if colour is None else colour, label=label)
            for label, colour in entries
        ],
        loc="upper left",
        bbox_to_anchor=(axes.get_xlim()[1] - _RIGHT + 0.1, -0.15),
        bbox_transform=axes.transData,
        labelcolor=_INK,
        fontsize=8,
        frameon=False,
    )
    for text, (_, colour) in zip(legend.get_texts(), entries, strict=True):
        text.set(weight="bold" if colour is None else "normal")
