"""A machine as figures: its nodes, its network, its storage. One small TOML file each.

Models take what they know of hardware from here. A figure is a rate that programs reach rather
than one of a data sheet, wherever somebody has measured it; the file says whose it is.
"""

import tomllib
from dataclasses import dataclass, fields
from math import prod
from pathlib import Path
from typing import Literal

from fugaku_jax.errors import InputError
from fugaku_jax.json_types import typed
from fugaku_jax.sections.checks import (
    require,
    require_listed,
    require_not_negative,
    require_positive,
)
from fugaku_jax.tofu.topology import AXES, UNIT_SHAPE


@dataclass(frozen=True)
class PeakRates:
    """The most that a node can compute, in floating-point operations a second, by precision.

    A precision that the processor lacks has the rate of the one that products are computed in
    instead.
    """

    fp64: float
    fp32: float
    bf16: float
    fp16: float

    def __post_init__(self) -> None:
        require_positive(self, "node.peak_flops", *(field.name for field in fields(self)))


@dataclass(frozen=True)
class Node:
    """What a node computes with."""

    cores: int
    """Cores that a job may use."""
    core_groups: int
    """Groups of cores that have memory of their own (CMGs, NUMA nodes); they divide the cores."""
    peak_flops: PeakRates
    """Floating-point operations a second of all cores, by precision."""
    memory_bytes: float
    """Memory of all groups together."""
    system_bytes: float
    """What of it the system keeps for itself."""
    memory_bytes_per_second: float
    """Reading and writing of all groups together."""

    def __post_init__(self) -> None:
        positive = "cores", "core_groups", "memory_bytes", "memory_bytes_per_second"
        require_positive(self, "node", *positive)
        require_not_negative(self, "node", "system_bytes")
        require(
            self.cores % self.core_groups == 0,
            "node.core_groups",
            self.core_groups,
            f"a divisor of node.cores, {self.cores}",
        )
        require(
            self.system_bytes < self.memory_bytes,
            "node.system_bytes",
            self.system_bytes,
            f"less than node.memory_bytes, {self.memory_bytes:.0f}",
        )

    @property
    def job_bytes(self) -> float:
        """Memory that is left to a job."""
        return self.memory_bytes - self.system_bytes


@dataclass(frozen=True)
class Network:
    """What joins the nodes."""

    topology: Literal["torus", "fat_tree", "bus"]
    """`torus` of six axes; `fat_tree`, whose leaf switches each join some nodes; or `bus`, which
    all messages share: processes of one computer that speak through its memory."""
    shape: tuple[int, ...]
    """Nodes along x y z a b c of a torus; else how many there are."""
    link_bytes_per_second: float
    """One direction of a link; of a bus, all that pass it together."""
    latency_seconds: float
    """From the call that sends until the receiver has a small message of its neighbour."""
    hop_seconds: float
    """More of it for every further link on the way."""
    interfaces: int
    """Messages that a node sends at full speed at the same time."""
    injection_bytes_per_second: float
    """What a node sends at most, over all its links; it receives as much at the same time."""
    reduction_bytes_per_second: float
    """Of a buffer that arrived: how fast a node adds it to its own."""
    nodes_per_leaf: int = 0
    """Nodes at a leaf switch; of a fat tree only."""
    oversubscription: float = 1.0
    """Bandwidth of a leaf switch's nodes over that of its links upwards; of a fat tree only."""

    def __post_init__(self) -> None:
        require_listed(self, "network", "topology")
        rates = "link_bytes_per_second", "injection_bytes_per_second", "reduction_bytes_per_second"
        require_positive(self, "network", "interfaces", "oversubscription", *rates)
        require_not_negative(self, "network", "latency_seconds", "hop_seconds")
        is_torus, is_tree = self.topology == "torus", self.topology == "fat_tree"
        wanted = f"{len(AXES)} sizes, those of {' '.join(AXES)}" if is_torus else "one size"
        right_length = len(self.shape) == (len(AXES) if is_torus else 1)
        require(
            right_length and min(self.shape) > 0,
            "network.shape",
            self.shape,
            f"{wanted}, greater than 0",
        )
        if is_torus:
            unit = zip(self.shape[3:], UNIT_SHAPE, strict=True)
            require(
                all(size <= most for size, most in unit),
                "network.shape",
                self.shape,
                f"at most {', '.join(map(str, UNIT_SHAPE))} along a, b, c",
            )
        require(
            (self.nodes_per_leaf > 0) == is_tree,
            "network.nodes_per_leaf",
            self.nodes_per_leaf,
            "greater than 0 in a fat tree, and left out elsewhere",
        )
        require(
            self.oversubscription >= 1,
            "network.oversubscription",
            self.oversubscription,
            "at least 1",
        )

    @property
    def nodes(self) -> int:
        """Nodes of the whole machine."""
        return prod(self.shape)


@dataclass(frozen=True)
class Storage:
    """Where checkpoints go."""

    node_bytes_per_second: float
    """What a node writes at most."""
    total_bytes_per_second: float
    """What all nodes of a job write at most together."""

    def __post_init__(self) -> None:
        require_positive(self, "storage", "node_bytes_per_second", "total_bytes_per_second")


@dataclass(frozen=True)
class Machine:
    """A machine that jobs run on.

    Raises:
        InputError: a figure is not what it can be; the sentence names its field.
    """

    name: str
    """What it is called where results are shown."""
    node: Node
    """One of its nodes; they are all alike."""
    network: Network
    """What joins them."""
    storage: Storage
    """Where checkpoints go."""


def read_machine(path: Path) -> Machine:
    """Read a machine's file.

    Raises:
        InputError: the file cannot be read, is no TOML, or a field is missing, unknown or wrong;
            the sentence names the file and the field.
    """
    try:
        values = tomllib.loads(path.read_bytes().decode())
    except OSError as error:
        raise InputError(f"machine file {path}: cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise InputError(f"machine file {path}: not valid TOML: {error}.") from error
    try:
        return typed(Machine, values)
    except InputError as error:
        raise InputError(f"machine file {path}: {error}") from error
