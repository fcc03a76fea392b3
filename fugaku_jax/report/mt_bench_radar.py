"""A picture of MT-Bench's scores: a radar with a line for each model, as model cards have it."""

import math
from collections.abc import Mapping
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fugaku_jax.report import svg

_INK, _HIGHEST = "#30363d", 10


def draw_radar(models: Mapping[str, Mapping[str, float]], path: Path) -> Path:
    """Draw the scores of models, from 0 to 10, around a circle.

    Args:
        models: of each its categories, clockwise from the top, with their scores; all have the
            same categories, three or more.
        path: the `.svg` file to write; the same for the same input.

    Returns:
        `path`.

    Raises:
        InputError: the path does not end in `.svg` or cannot be written.
    """
    svg.check_name(path)
    categories = list(next(iter(models.values())))
    angles = [2 * math.pi * place / len(categories) for place in range(len(categories))]
    figure = Figure(figsize=(5.5, 5.5))
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(projection="polar")
    axes.set_theta_offset(math.pi / 2)  # pyrefly: ignore
    axes.set_theta_direction(-1)  # pyrefly: ignore
    for name, scores in models.items():
        values = [scores[each] for each in categories]
        (line,) = axes.plot([*angles, angles[0]], [*values, values[0]], label=name)
        axes.fill(angles, values, color=line.get_color(), alpha=0.15)
    axes.set_xticks(angles, [each.upper() if each == "stem" else each for each in categories])
    axes.set(ylim=(0, _HIGHEST), yticks=range(0, _HIGHEST + 1, 2))
    axes.tick_params(colors=_INK)
    axes.tick_params("x", pad=12)
    axes.set_title(", ".join(models), color=_INK, pad=18, parse_math=False)
    return svg.save(figure, path)
