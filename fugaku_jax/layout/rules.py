"""Which mesh axes carry which logical axis of an array: the one table that says it.

The axes have their names from `tofu.topology`, and `assignment` gives them to the kinds of
parallelism. What computes names none of them: a weight or an activation is described by logical
axes, e.g. `spec("embed", "mlp")`, and the rules in force turn them into a `PartitionSpec`.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import jax
from jax.sharding import PartitionSpec

LogicalAxis = Literal["batch", "sequence", "vocab", "heads", "mlp", "embed", "layers", "stage"]

LOCAL_AXIS = "k"
"""The axis beside the six: devices of one node."""


@dataclass(frozen=True)
class Rules:
    """What the mesh axes carry; each axis carries one thing, and axes of length 1 may be left out.

    The names stand from the outermost to the innermost. With none, everything is everywhere.
    """

    data: tuple[str, ...] = ()
    """Axes along which replicas lie."""
    tensor: tuple[str, ...] = ()
    """Axes that share heads, feed-forward and vocabulary."""
    context: tuple[str, ...] = ()
    """Axes that share each sequence."""
    pipeline: tuple[str, ...] = ()
    """Axes of the stages."""
    sequence_parallel: bool = False
    """Whether the tensor axes share the positions where they share nothing else."""

    def axes(self, logical: LogicalAxis) -> tuple[str, ...]:
        """Return the mesh axes that a logical axis is split over."""
        table: dict[LogicalAxis, tuple[str, ...]] = {
            "batch": self.data,
            "sequence": self.context + (self.tensor if self.sequence_parallel else ()),
            "vocab": self.tensor,
            "heads": self.tensor,
            "mlp": self.tensor,
            "embed": (),
            "layers": (),
            "stage": self.pipeline,
        }
        return table[logical]

    @property
    def summed(self) -> tuple[str, ...]:
        """Axes over which the gradients of every weight are summed."""
        return self.data + self.context

    @property
    def manual(self) -> tuple[str, ...]:
        """Axes that the step handles by its own collectives; JAX handles the others by type."""
        return self.pipeline + self.summed

    @property
    def local_axis(self) -> str | None:
        """The axis of the devices of a node, if there are several."""
        return LOCAL_AXIS if LOCAL_AXIS in self.tensor else None

    def without_stages(self) -> "Rules":
        """Return rules for a model that lies whole in every tensor group: all else is data."""
        return Rules(data=self.manual, tensor=self.tensor)


_in_force = Rules()


def set_rules(rules: Rules) -> None:
    """Put rules in force, for the mesh that is set."""
    global _in_force
    _in_force = rules


@contextmanager
def use_rules(rules: Rules) -> Iterator[None]:
    """Put rules in force for a while."""
    before = _in_force
    set_rules(rules)
    try:
        yield
    finally:
        set_rules(before)


def get_rules() -> Rules:
    """Return the rules in force."""
    return _in_force


def spec(*axes: LogicalAxis | None) -> PartitionSpec:
    """Return the partition of an array whose dimensions have the given logical axes.

    A mesh axis that would split two dimensions splits the one that is not the sequence: positions
    are shared only where nothing else is. Axes that are manual where this is called are left out.

    Args:
        axes: one logical axis a dimension; None for a dimension that is never split.
    """
    taken = set(jax.sharding.get_abstract_mesh().manual_axes)
    entries: list[tuple[str, ...] | None] = [None] * len(axes)
    for dimension in sorted(range(len(axes)), key=lambda d: axes[d] == "sequence"):
        axis = axes[dimension]
        free = () if axis is None else [a for a in _in_force.axes(axis) if a not in taken]
        taken.update(free)
        entries[dimension] = tuple(free) or None
    return PartitionSpec(*entries)


def parts(logical: LogicalAxis) -> int:
    """Return into how many parts a logical axis is split, manual axes counted."""
    return devices_along(_in_force.axes(logical))


def devices_along(axes: tuple[str, ...]) -> int:
    """Return how many devices stand along mesh axes, manual ones counted."""
    mesh = jax.sharding.get_abstract_mesh()
    return math.prod(mesh.shape.get(axis, 1) for axis in axes)
