"""How long a message of a step takes on the links of a machine: modelled by `tofu.network`."""

import functools
import math
from dataclasses import dataclass

from fugaku_jax.layout.assignment import Assignment
from fugaku_jax.planning.step_work import Message
from fugaku_jax.tofu.machine import Machine


@dataclass(frozen=True)
class Links:
    """The links that a run's mesh lies on."""

    machine: Machine
    assignment: Assignment
    collective: str
    """How gradients are summed (`mesh.collective`); all else goes round one ring."""
    share: float
    """The share of the model's speed that collectives reach."""

    def seconds(self, message: Message) -> float:
        """Return the modelled seconds of a message, all groups of its kind sending at once."""
        return message.count * _seconds(self, message.kind, message.over, message.bytes)


@functools.lru_cache(maxsize=65536)
def _seconds(links: Links, kind: str, over: tuple[str, ...], size: int) -> float:
    network = links.machine.network
    members = math.prod(
        part.size for part in links.assignment.parts if part.kind in over
    )
    if members == 1:
        return 0.0
    speed = network.link_bytes_per_second * links.share
    passes = {"all-reduce": 2, "all-gather": 1, "reduce-scatter": 1, "all-to-all": 1}
    if kind == "send":
        return network.latency_seconds + size / speed
    rounds = passes[kind] * (members - 1)
    return rounds * (network.latency_seconds + size / members / speed)
