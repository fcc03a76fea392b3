"""A picture of what layers and the sums of their gradients do on the way back, and when."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fugaku_jax.collectives.started import Journey
from fugaku_jax.report import svg

_COMPUTES, _WAITS, _TRAVELS = "#4477aa", "#ddcc77", "#cc6677"


def draw_journeys(journeys: Sequence[Journey], path: Path) -> Path:
    """Draw a backward pass: a row for the layers, and one for each layer's sum.

    What lies between the end of one wait, or the start of a sum, and the start of the next sum is a
    layer that computes.

    Args:
        journeys: of one pass, in the order in which they were done with.
        path: the `.svg` file to write.

    Returns:
        `path`.

    Raises:
        InputError: the path does not end in `.svg` or cannot be written.
    """
    svg.check_name(path)
    first = journeys[0].started
    figure = Figure((9, 1.2 + 0.3 * len(journeys)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()

    def bar(row: int, begin: float, end: float, colour: str) -> None:
        axes.barh(row, (end - begin) * 1e3, left=(begin - first) * 1e3, height=0.7, color=colour)

    for number, journey in enumerate(journeys):
        bar(number + 1, journey.started, journey.ended, _TRAVELS)
        bar(0, journey.asked, journey.given, _WAITS)
        if number + 1 < len(journeys):
            before = journeys[number - 1].given if number else journey.started
            bar(0, before, journeys[number + 1].started, _COMPUTES)
    names = [f"sum {n + 1}: {each.bytes / 1e6:.1f} MB" for n, each in enumerate(journeys)]
    axes.set_yticks(range(len(journeys) + 1), ["layers (yellow: wait)", *names])
    axes.invert_yaxis()
    axes.set_xlabel("milliseconds since the first layer was done, measured")
    axes.spines[:].set_visible(False)
    return svg.save(figure, path)
