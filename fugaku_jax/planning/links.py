"""How long the messages of a step take on the links of a machine: modelled by `tofu.network`."""

import functools
import math
from dataclasses import dataclass

from fugaku_jax.collectives.phases import LARGEST_GROUP
from fugaku_jax.collectives.routes import plan_routes
from fugaku_jax.layout.assignment import Assignment
from fugaku_jax.layout.rules import LOCAL_AXIS
from fugaku_jax.planning.step_work import Message
from fugaku_jax.tofu.machine import Machine
from fugaku_jax.tofu.network import CollectiveTime, collective_seconds
from fugaku_jax.tofu.rounds import Algorithm, Kind, Named

_ALGORITHMS: dict[str, Named] = {"bucket": "bucket", "turned": "bucket", "snake": "snake"}


@dataclass(frozen=True)
class Links:
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

    def seconds(self, message: Message) -> float:
        """Return the modelled seconds of a message, all groups of its kind sending at once."""
        if self.members(message.over) == 1:
            return 0.0
        share = self.gradient_share if message.over == ("data", "context") else self.share
        return message.count * self.time(message).seconds / share

    def time(self, message: Message) -> CollectiveTime:
        """Return what the network model says of one such message."""
        axes = self.axes(message.over)
        gradients = message.over == ("data", "context")
        algorithm = self._algorithm(axes) if gradients else "ring"
        parts = tuple((part.name, part.size) for part in self.assignment.parts)
        return _time(self.machine, parts, axes, message.kind, message.bytes, algorithm)

    def _algorithm(self, axes: tuple[str, ...]) -> Algorithm:
        if self.collective in _ALGORITHMS:
            return _ALGORITHMS[self.collective]
        if self.collective == "flat":  # axis by axis where the group would be too large
            return "ring" if self.members(("data", "context")) <= LARGEST_GROUP else "bucket"
        sizes = {part.name: part.size for part in self.assignment.parts}
        return plan_routes(tuple(sizes[axis] for axis in axes if axis != LOCAL_AXIS))


@functools.lru_cache(maxsize=65536)
def _time(
    machine: Machine,
    parts: tuple[tuple[str, int], ...],
    axes: tuple[str, ...],
    kind: Kind,
    size: int,
    algorithm: Algorithm,
) -> CollectiveTime:
    return collective_seconds(machine, parts, axes, kind, size, algorithm)
