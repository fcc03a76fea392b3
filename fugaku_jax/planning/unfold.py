"""Where each device of the 6D torus lies on a flat page."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from fugaku_jax.report.svg import DOTS_PER_INCH

_WIDTH = 10.0  # inches that the squares take at most
_SQUARE = 0.75  # inches that the side of one has at most
_LABELS = 0.2  # inches above a line of places
_WIDE = 1.6  # width over height, about


@dataclass(frozen=True)
class Page:
    """Where the squares lie, in inches from the upper left; axes as indices into the shape."""

    across: int
    """Axis along which places go to the right."""
    down: int
    """Axis along which they go down."""
    beside: int
    """Axis along which units stand beside each other in one place."""
    unit_across: int
    """Axis along which a unit's devices go to the right."""
    unit_down: tuple[int, int]
    """Axes along which they go down, outer and inner."""
    square: float
    """Side of a square."""
    per_line: int
    """Places to the right before a new line of them is begun."""
    step: Float[np.ndarray, "2"]
    """From a place to the next one, right and down."""
    place: Float[np.ndarray, "2"]
    """Width and height of a place without the gap to the next."""
    line: float
    """From a line of places to the next one."""
    corners: Float[np.ndarray, "N 2"]
    """Upper left corner of each device's square, in row-major order of the mesh."""


def unfold(shape: tuple[int, ...]) -> Page:
    """Lay a torus out: the longest of its first three axes to the right, the second down.

    Where the page would be too wide, what goes to the right goes on in a further line. Along the
    shortest of the three, units (the devices on the last three axes) stand beside each other in
    one place.

    Args:
        shape: devices along x y z a b c.
    """
    across, down, beside = sorted(range(3), key=lambda axis: -shape[axis])
    unit_across, first, second = sorted(range(3, 6), key=lambda axis: -shape[axis])
    first, second = sorted((first, second))
    # First in squares, until the width of the page says how large they are.
    unit = np.array([shape[unit_across], shape[first] * shape[second]])
    gap = 0.22 * unit.max()
    units = np.array([shape[beside], 1])
    step = units * unit + (units - 1) * gap / 3 + gap
    lines = round(math.sqrt(shape[across] * step[0] / (shape[down] * step[1]) / _WIDE))
    per_line = math.ceil(shape[across] / min(max(lines, 1), shape[across]))
    # Then in dots.
    square = max(math.floor(min(_SQUARE, _WIDTH / (per_line * step[0])) * DOTS_PER_INCH), 2)
    gap, gap_beside = math.ceil(gap * square), math.ceil(gap / 3 * square)
    place = units * unit * square + (units - 1) * gap_beside
    step = place + gap
    line = shape[down] * step[1] + round(_LABELS * DOTS_PER_INCH)
    at = np.indices(shape).reshape(len(shape), -1)
    to_right = at[across] % per_line * step[0] + at[unit_across] * square
    to_right += at[beside] * (unit[0] * square + gap_beside)
    downwards = at[across] // per_line * line + at[down] * step[1]
    downwards += (at[first] * shape[second] + at[second]) * square
    corners = np.stack([to_right, downwards], axis=1)
    return Page(
        across,
        down,
        beside,
        unit_across,
        (first, second),
        square / DOTS_PER_INCH,
        per_line,
        step / DOTS_PER_INCH,
        place / DOTS_PER_INCH,
        line / DOTS_PER_INCH,
        corners / DOTS_PER_INCH,
    )
