"""Ranks by their numbers, with the hosts and the places in the network that they run on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

_SHOWN = 3


@dataclass
class RankNames:
    """What is known of where ranks run."""

    hosts: Mapping[int, str] = field(default_factory=dict)
    """Names of hosts; rank 0 knows all, the others that of rank 0."""
    places: Mapping[int, str] = field(default_factory=dict)
    """Where nodes are in the network, as `x0 y0 z1 a0 b1 c0`."""

    def __call__(self, ranks: Sequence[int]) -> str:
        """Name ranks: `rank 7`, `ranks 3 (node004, x0 y0 z1 a0 b1 c0) and 4 (node005)`."""
        described = []
        for rank in sorted(ranks)[:_SHOWN]:
            where = ", ".join(filter(None, (self.hosts.get(rank), self.places.get(rank))))
            described.append(f"{rank} ({where})" if where else f"{rank}")
        if len(ranks) > _SHOWN:
            described.append(f"{len(ranks) - _SHOWN} more")
        words = " and ".join(filter(None, (", ".join(described[:-1]), described[-1])))
        return f"{'rank' if len(ranks) == 1 else 'ranks'} {words}"


def sentence(text: str) -> str:
    """Begin with a capital letter."""
    return text[0].upper() + text[1:]
