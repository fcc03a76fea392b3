"""Which devices talk to which in the phases of a reduction over several torus axes.

No device is needed to work that out: a plan is numbers. `collectives.py` carries it out.
"""

import functools
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Int

Algorithm = Literal["flat", "bucket", "turned"]
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
class Step:
    """What a phase means to one local device."""

    digits: tuple[int, ...]
    """Indices of the plan's digits in which the group's devices differ, the outermost first."""
    backward: bool = False
    """Whether the group counts them from the last to the first."""


@dataclass(frozen=True)
class Plan:
    """The phases of a reduce-scatter; an all-gather takes them in the reverse order."""

    digits: tuple[Digit, ...]
    """All digits, by axis as named, the most significant first; none of size 1."""
    phases: tuple[Phase, ...]
    steps: tuple[tuple[Step, ...], ...]
    """By local device, one step a phase. Only one row if all local devices do the same."""
    local_axis: str | None
    """The axis along which the rows of `steps` stand; None if there is only one."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """Devices in a group of each phase."""
        return tuple(phase.size for phase in self.phases)

    def orders(self) -> Int[np.ndarray, "devices blocks"]:
        """Return, by local device, which block the phases count as the first, second, and so on.

        Blocks are numbered by the digits, the first the most significant.
        """
        blocks = np.arange(np.prod(self.sizes, dtype=int))
        blocks = blocks.reshape([digit.size for digit in self.digits])
        rows = []
        for steps in self.steps:
            row = blocks.transpose([index for step in steps for index in step.digits])
            backward = tuple(phase for phase, step in enumerate(steps) if step.backward)
            rows.append(np.flip(row.reshape(self.sizes), backward).reshape(-1))
        return np.array(rows)


@functools.lru_cache
def make_plan(axes: tuple[Axis, ...], algorithm: Algorithm, local: Axis | None = None) -> Plan:
    """Plan the phases over some axes.

    Args:
        axes: in the order in which bucket walks them.
        algorithm: as `collectives` explains it.
        local: the axis along which a node's devices stand; only turned looks at it.
    """
    axes = tuple(axis for axis in axes if axis[1] > 1)
    if algorithm == "turned" and local and local[1] > 1:
        return _turned(axes, local)
    devices = math.prod(size for _, size in axes)
    if algorithm == "flat" and axes and devices <= LARGEST_GROUP:
        digits = tuple(Digit(name, size, 1) for name, size in axes)
        together = Step(tuple(range(len(digits))))
        return Plan(digits, (Phase(devices, tuple(dict(axes)), None),), ((together,),), None)
    digits = tuple(digit for name, size in axes for digit in _cut(name, size))
    steps = tuple(Step((index,)) for index in range(len(digits)))
    sizes = dict(axes)
    phases = tuple(
        Phase(digit.size, (digit.axis,), _lines(sizes[digit.axis], digit)) for digit in digits
    )
    return Plan(digits, phases, (steps,), None)


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


def _turned(axes: tuple[Axis, ...], local: Axis) -> Plan:
    rounds = _rounds(dict(axes), local[1])
    names = [name for name, _ in axes]
    digits = sorted(
        (digit for taken in rounds for digit in taken),
        key=lambda digit: (names.index(digit.axis), -digit.stride),
    )
    steps = tuple(
        tuple(
            Step(
                (digits.index(taken[(p + device) % len(taken)]),),
                backward=device // len(taken) % 2 == 1,
            )
            for taken in rounds
            for p in range(len(taken))
        )
        for device in range(local[1])
    )
    phases = tuple(
        Phase(
            size=digits[own[0].digits[0]].size,
            axes=(*names, local[0]),
            groups=_groups(axes, digits, own),
        )
        for own in zip(*steps, strict=True)
    )
    return Plan(tuple(digits), phases, steps, local[0])


def _rounds(left: dict[str, int], local_size: int) -> list[list[Digit]]:
    """Factor the axes into digits: those of a round have one size and are taken in turns."""
    stride = dict.fromkeys(left, 1)
    rounds = []
    while any(size > 1 for size in left.values()):

        def worth(size: int) -> tuple[bool, int, int]:
            sharing = sum(rest % size == 0 for rest in left.values())
            return size <= LARGEST_GROUP and sharing > 0, min(sharing, local_size), size

        size = max(range(2, max(left.values()) + 1), key=worth)
        taken = [Digit(axis, size, stride[axis]) for axis in left if left[axis] % size == 0]
        for digit in taken:
            left[digit.axis] //= size
            stride[digit.axis] *= size
        rounds.append(taken)
    return rounds


def _groups(
    axes: tuple[Axis, ...], digits: list[Digit], own: tuple[Step, ...]
) -> tuple[tuple[int, ...], ...]:
    """Group all devices of the axes and the local axis for a phase.

    Args:
        axes: name and size of each, the outermost of an index first; the local axis is innermost.
        digits: all digits, as in a plan.
        own: the phase's step of each local device.
    """
    shape = [digit.size for digit in digits]
    index = np.arange(np.prod([size for _, size in axes]) * len(own)).reshape(*shape, len(own))
    groups = []
    for device, step in enumerate(own):
        (digit,) = step.digits
        lines = np.moveaxis(index[..., device], digit, -1).reshape(-1, shape[digit])
        groups.append(lines[:, ::-1] if step.backward else lines)
    return tuple(tuple(group) for group in np.concatenate(groups).tolist())
