"""Machines of round figures, for tests of the network model."""

from dataclasses import dataclass

from fugaku_jax.tofu.machine import Machine, Network, Node, PeakRates, Storage


@dataclass(frozen=True)
class Way:
    """A walk: a share of a buffer, and the axes that it takes."""

    share: float
    axes: tuple[int, ...]
    backward: bool = False


def network(topology: str = "torus", shape: tuple[int, ...] = (1,), **fields) -> Network:
    """A network whose links carry 1 byte a second and lose no time, but for what is given."""
    given = {
        "link_bytes_per_second": 1.0,
        "latency_seconds": 0.0,
        "hop_seconds": 0.0,
        "interfaces": 10,
        "injection_bytes_per_second": 1e18,
        "reduction_bytes_per_second": 1e18,
    }
    return Network(topology=topology, shape=shape, **(given | fields))


def machine(*args, **fields) -> Machine:
    """A machine with such a network."""
    peaks = PeakRates(fp64=1.0, fp32=1.0, bf16=1.0, fp16=1.0)
    node = Node(1, 1, peaks, memory_bytes=1.0, system_bytes=0.0, memory_bytes_per_second=1.0)
    return Machine("round", node, network(*args, **fields), Storage(1.0, 1.0))
