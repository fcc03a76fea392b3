"""Which devices talk to which in the phases of a reduction over several torus axes.

No device is needed to work that out: a plan is numbers. `sums.py` carries it out.
"""

import functools
import math
from dataclasses import dataclass

import numpy as np

LARGEST_GROUP = 48
"""Most devices that meet in a collective: gloo connects each member of a group with every other. An
axis whose length has no divisor up to that is a group as it is."""
Axis = tuple[str, int]
"""Name and size of a mesh axis."""


@dataclass(frozen=True)
class Digit:
    """A factor of an axis: of a device's coordinate, the part `coordinate // stride % size`."""

    axis: str
    size: int
    stride: int


@dataclass(frozen=True)
class Phase:
    """One collective."""

    size: int
    """Devices in each of its groups."""
    axes: tuple[str, ...]
    """The mesh axes that it is told."""
    groups: tuple[tuple[int, ...], ...] | None
    """Groups of row-major indices over those axes; None if all along them are one group."""


@dataclass(frozen=True)
class Plan:
    """The phases of a reduce-scatter; an all-gather takes them in the reverse order."""

    digits: tuple[Digit, ...]
    """All digits, by axis as named, the most significant first; none of size 1."""
    phases: tuple[Phase, ...]

    @property
    def sizes(self) -> tuple[int, ...]:
        """Devices in a group of each phase."""
        return tuple(phase.size for phase in self.phases)


@functools.lru_cache
def make_plan(axes: tuple[Axis, ...]) -> Plan:
    """Plan the phases over some axes.

    Args:
        axes: in the order in which they are walked where one group would be too large.
    """
    axes = tuple(axis for axis in axes if axis[1] > 1)
    devices = math.prod(size for _, size in axes)
    if axes and devices <= LARGEST_GROUP:
        digits = tuple(Digit(name, size, 1) for name, size in axes)
        return Plan(digits, (Phase(devices, tuple(dict(axes)), None),))
    digits = tuple(digit for name, size in axes for digit in _cut(name, size))
    sizes = dict(axes)
    phases = tuple(
        Phase(digit.size, (digit.axis,), _lines(sizes[digit.axis], digit)) for digit in digits
    )
    return Plan(digits, phases)


def _cut(axis: str, size: int) -> list[Digit]:
    """Cut an axis into digits no larger than a group may be, the most significant first."""
    digits, stride = list[Digit](), 1
    while stride < size:
        left = size // stride
        fitting = [n for n in range(2, min(left, LARGEST_GROUP) + 1) if left % n == 0]
        digits.insert(0, Digit(axis, fitting[-1] if fitting else left, stride))
        stride *= digits[0].size
    return digits


def _lines(size: int, digit: Digit) -> tuple[tuple[int, ...], ...] | None:
    """Group the indices of an axis by all but a digit; None if that is the whole axis."""
    if digit.size == size:
        return None
    index = np.arange(size).reshape(-1, digit.size, digit.stride)
    return tuple(map(tuple, np.moveaxis(index, 1, -1).reshape(-1, digit.size).tolist()))
