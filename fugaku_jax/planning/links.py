"""How long the messages of a step take on the links of a machine: modelled by `tofu.network`."""

import functools
import math
from dataclasses import dataclass, replace

from fugaku_jax.collectives.phases import LARGEST_GROUP
from fugaku_jax.collectives.routes import plan_routes, wires_of
from fugaku_jax.layout.assignment import Assignment
from fugaku_jax.layout.rules import LOCAL_AXIS
from fugaku_jax.planning.step_work import Transfer
from fugaku_jax.tofu.machine import Machine
from fugaku_jax.tofu.network import CollectiveTime, collective_seconds
from fugaku_jax.tofu.rounds import Algorithm, Kind

GRADIENTS = ("data", "context")
"""Kinds of parallelism along which gradients are summed."""
_MANY = 1 << 30  # bytes


@dataclass(frozen=True)
class StepLinks:
    """The links that a run's mesh lies on."""

    machine: Machine
    """Whose."""
    assignment: Assignment
    """What each axis of the mesh carries."""
    collective: str
    """How gradients are summed (`mesh.collective`), or `snake`, a ring along neighbours; XLA's own
    collectives go round one ring."""
    share: float = 1.0
    """The share of the network model's speed that collectives of a micro-batch reach."""
    gradient_share: float = 1.0
    """That which those after the last micro-batch reach."""

    def axes(self, over: tuple[str, ...]) -> tuple[str, ...]:
        """Return the mesh axes of more than one device that carry kinds of parallelism."""
        parts = self.assignment.parts
        return tuple(part.name for part in parts if part.kind in over and part.size > 1)

    def members(self, over: tuple[str, ...]) -> int:
        """Return how many devices a group along kinds of parallelism has."""
        return math.prod(part.size for part in self.assignment.parts if part.kind in over)

    def seconds(self, message: Transfer) -> float:
        """Return the modelled seconds of a message, all groups of its kind sending at once."""
        if self.members(message.over) == 1:
            return 0.0
        share = self.gradient_share if message.over == GRADIENTS else self.share
        key = message.kind, message.over
        if key not in self._lines:  # the model's time is a line over the bytes
            none, many = (self.time(replace(message, bytes=n)).seconds for n in (0, _MANY))
            self._lines[key] = none, (many - none) / _MANY
        start, pace = self._lines[key]
        return message.count * (start + pace * message.bytes) / share

    def time(self, message: Transfer) -> CollectiveTime:
        """Return what the network model says of one such message."""
        axes = self.axes(message.over)
        algorithm = self._algorithm(axes) if message.over == GRADIENTS else "ring"
        parts = tuple((part.name, part.size) for part in self.assignment.parts)
        kind: Kind = message.kind
        return collective_seconds(self.machine, parts, axes, kind, message.bytes, algorithm)

    @functools.cached_property
    def _lines(self) -> dict[tuple[str, tuple[str, ...]], tuple[float, float]]:
        return {}

    def _algorithm(self, axes: tuple[str, ...]) -> Algorithm:
        if self.collective == "snake":
            return "snake"
        if self.collective == "flat":  # axis by axis where the group would be too large
            return "ring" if self.members(GRADIENTS) <= LARGEST_GROUP else "bucket"
        sizes = {part.name: part.size for part in self.assignment.parts}
        between = [axis for axis in axes if axis != LOCAL_AXIS]
        wires = wires_of(tuple(sizes.items()), between)
        return plan_routes(tuple(sizes[axis] for axis in between), wires)
