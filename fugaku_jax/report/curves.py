"""Curves of runs as small SVG drawings that read well on a light page and on a dark one.

The drawings carry the light colours; `dark_style` gives the CSS that exchanges each for its dark
counterpart where the reader's system asks for that. A program that knows no CSS shows light ones.
"""

import io
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import matplotlib as mpl
import numpy as np
from jaxtyping import Float
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from fugaku_jax.spelling import amount

Scale = Literal["linear", "from zero", "log", "log2"]
LIGHT_AND_DARK = (
    ("#2563c9", "#6ea8fe"),
    ("#c8551b", "#f2915a"),
    ("#1b8a5a", "#56c596"),
    ("#8549ba", "#c297f0"),
    ("#c2315f", "#f27ba0"),
    ("#0f8299", "#56c5d8"),
    ("#8a7500", "#d3bd4a"),
    ("#555e68", "#aab4be"),
)
_INK = ("#5a636d", "#9ca6b0")
_GRID = "#808890"  # with this little of it, right on light and dark
_GRID_ALPHA = 0.25
_FONT = "system-ui, -apple-system, 'Noto Sans', sans-serif"
_METADATA = ("Creator", "Date", "Format", "Type")  # that Matplotlib would write into the file
_POINTS = 300  # a drawing is this many points wide at most, however long the run
_SMOOTHED_FRACTION = 0.025  # of a run's steps, that a smoothed curve averages over


@dataclass(frozen=True)
class Series:
    """One line of a drawing."""

    x: Float[np.ndarray, " N"]
    """Positions, ascending."""
    y: Float[np.ndarray, " N"]
    """Values; NaN where there is none."""
    colour: int = 0
    """Index into `LIGHT_AND_DARK`, which starts again after the last."""
    style: Literal["line", "faint", "points"] = "line"
    """`faint` lies behind and keeps the extremes of a long run; `points` marks every value."""
    label: str = ""
    """Name in the legend of a drawing that has one."""


def smoothed(values: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
    """The mean of each value and its neighbours, NaN passed over, over 1/40 of all values."""
    half = int(len(values) * _SMOOTHED_FRACTION / 2)
    known = np.isfinite(values)
    sums = np.concatenate([[0.0], np.cumsum(np.where(known, values, 0.0))])
    counts = np.concatenate([[0], np.cumsum(known)])
    # Fewer neighbours at the start, as many on either side: a steep start stays in its place.
    # At the end the earlier ones alone do: with fewer the curve would end in noise.
    middle = np.arange(len(values))
    reach = np.minimum(half, middle)
    low, high = middle - reach, np.minimum(middle + reach + 1, len(values))
    with np.errstate(invalid="ignore"):
        return (sums[high] - sums[low]) / (counts[high] - counts[low])


def draw(
    series: Sequence[Series],
    x_label: str,
    y_label: str,
    *,
    scale: Scale = "linear",
    size: tuple[float, float] = (5.2, 3.0),
    legend: bool = False,
    dots_per_inch: int = 100,
    format: Literal["svg", "png"] = "svg",
) -> bytes:
    """Draw curves in one frame.

    Args:
        series: what to draw; those of no finite value are left out.
        x_label: quantity on the horizontal axis.
        y_label: quantity and unit on the vertical axis.
        scale: of the vertical axis. A linear one leaves out the highest fiftieth of the values if
            the rest would be squeezed by them, and says so in the drawing.
        size: width and height in inches; text is 10 points high.
        legend: whether to name the series in the drawing.
        dots_per_inch: of a PNG, which is drawn on white.
        format: of the result.

    Returns:
        The file; the same for the same input.
    """
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for one in series:
        _plot(axes, one)
    if scale in ("log", "log2"):
        _logarithmic(axes, base=2 if scale == "log2" else 10)
    elif scale == "from zero":
        axes.set_ylim(bottom=0)
    else:
        _frame(axes, series)
    axes.set_xlabel(x_label, color=_INK[0])
    axes.set_ylabel(y_label, color=_INK[0])
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.xaxis.set_major_formatter(FuncFormatter(_tick))
    if axes.get_ylim()[1] >= 1000:
        axes.yaxis.set_major_formatter(FuncFormatter(_tick))
    axes.tick_params(which="both", labelcolor=_INK[0], length=0)
    axes.yaxis.get_offset_text().set_color(_INK[0])
    axes.grid(axis="y", color=_GRID, alpha=_GRID_ALPHA, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
    axes.spines["bottom"].set(visible=True, color=_GRID, alpha=_GRID_ALPHA)
    if legend:
        axes.legend(frameon=False, labelcolor=_INK[0])
    file = io.BytesIO()
    with (
        mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "fugaku_jax"}),
        warnings.catch_warnings(),
    ):
        # A name in Japanese is measured with a font that lacks it, but shown with the reader's.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        if format == "png":
            figure.savefig(file, format="png", dpi=dots_per_inch, metadata={"Software": None})
            return file.getvalue()
        figure.savefig(file, format="svg", transparent=True, metadata=dict.fromkeys(_METADATA))
    return _trimmed(file.getvalue().decode()).encode()


def inline(svg: bytes, title: str) -> str:
    """An SVG drawing as an element of an HTML page, with `title` (plain text) for screen readers.

    The result holds no address and no fixed size.
    """
    text = re.sub(r'\s(xmlns(:\w+)?|width|height|version)="[^"]*"', "", svg.decode(), count=5)
    safe = title.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    return text.replace("<svg", f'<svg role="img" aria-label="{safe}"', 1)


def dark_style() -> str:
    """CSS rules that exchange the colours of every drawing for their dark counterparts."""
    return "\n".join(
        f'[style*="{use}: {light}"] {{ {use}: {dark} !important }}'
        for light, dark in (_INK, *LIGHT_AND_DARK)
        for use in ("stroke", "fill")
    )


def standalone(svg: bytes) -> bytes:
    """An SVG drawing as a file that follows its reader's preference for light or dark."""
    style = f"<style>@media (prefers-color-scheme: dark) {{\n{dark_style()}\n}}</style>"
    head, rest = svg.decode().split(">", 1)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{head}>\n{style}{rest}'.encode()


def _plot(axes, one: Series) -> None:
    colour = LIGHT_AND_DARK[one.colour % len(LIGHT_AND_DARK)][0]
    # Past the last colour a run is told apart by dashes.
    dashes = ("-", "--", ":")[one.colour // len(LIGHT_AND_DARK) % 3]
    known = np.isfinite(one.y) & np.isfinite(one.x)
    x, y = one.x[known], one.y[known]
    if one.style == "faint":
        x, y = _extremes(x, y)
        axes.plot(x, y, color=colour, alpha=0.28, linewidth=0.8, label="_")
    elif one.style == "points":
        markers = {"marker": "o", "markersize": 4.5, "markeredgewidth": 0}
        axes.plot(x, y, dashes, color=colour, linewidth=0.9, label=one.label, **markers)
    else:
        # A line of one point would be invisible.
        marker = "o" if len(x) == 1 else None
        x, y = _thinned(x, y)
        axes.plot(x, y, dashes, color=colour, linewidth=1.7, marker=marker, label=one.label)


def _logarithmic(axes, base: int) -> None:
    axes.set_yscale("log", base=base)
    axes.yaxis.set_major_formatter(FuncFormatter(_tick))
    lowest, highest = axes.get_ylim()
    narrow = base == 10 and highest < 100 * lowest  # powers of ten alone would say too little
    axes.yaxis.set_minor_locator(LogLocator(subs=(2, 3, 5)) if narrow else NullLocator())
    axes.yaxis.set_minor_formatter(FuncFormatter(_tick))


def _frame(axes, series: Sequence[Series]) -> None:
    values = np.concatenate([one.y[np.isfinite(one.y)] for one in series] or [np.zeros(0)])
    if not len(values):
        return
    lowest, high, highest = np.quantile(values, [0, 0.98, 1])
    if high - lowest >= 0.7 * (highest - lowest):
        return
    margin = 0.05 * (high - lowest)
    axes.set_ylim(lowest - margin, high + margin)
    axes.annotate(
        f"highest value {highest:.4g}, outside",
        (1, 1),
        xycoords="axes fraction",
        ha="right",
        va="top",
        color=_INK[0],
        fontsize=9,
    )


def _thinned(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if not len(x):
        return x, y
    kept = np.linspace(0, len(x) - 1, min(len(x), _POINTS)).round().astype(int)
    return x[kept], y[kept]


def _extremes(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    kept: list[int] = []
    edges = np.linspace(0, len(x), min(len(x), _POINTS) + 1).astype(int)
    for start, stop in pairwise(edges):
        part = y[start:stop]
        kept += sorted({start + int(part.argmin()), start + int(part.argmax())})
    return x[kept], y[kept]


def _tick(value: float, _position: int | None = None) -> str:
    text = amount(value)
    number, sign = (text[:-1], text[-1]) if text[-1] in "kMBT" else (text, "")
    return (number.rstrip("0").rstrip(".") if "." in number else number) + sign


def _trimmed(svg: str) -> str:
    """Without prologue and group names (two in a page would clash), to 1/100 point, short."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r' id="[\w.]+_\d+"', "", svg)
    svg = re.sub(r"font-family: [^;\"]+", f"font-family: {_FONT}", svg)
    return re.sub(r"<[^>]*>", lambda tag: re.sub(r"\d+\.\d{3,}", _rounded, tag[0]), svg)


def _rounded(number: re.Match) -> str:
    return f"{float(number[0]):.2f}"
