"""Which mesh axes carry which logical axis of an array: the one table that says it.

The axes have their names from `tofu.topology`, and `assignment` gives them to the kinds of
parallelism. What computes names none of them: a weight or an activation is described by logical
axes, e.g. `rules.spec("embed", "mlp")`, which the rules turn into a `PartitionSpec`.
"""

import math
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
    lengths: tuple[tuple[str, int], ...] = ()
    """(mesh axis, devices along it) pairs of all axes named above."""

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

    def spec(self, *axes: LogicalAxis | None) -> PartitionSpec:
        """Return the partition of an array whose dimensions have the given logical axes.

        A mesh axis that would split two dimensions splits the one that is not the sequence:
        positions are shared only where nothing else is. Axes that are manual where this is called
        are left out, as JAX wants it in types there.

        Args:
            axes: one logical axis a dimension; None for a dimension that is never split.
        """
        taken = set(jax.sharding.get_abstract_mesh().manual_axes)
        entries: list[tuple[str, ...] | None] = [None] * len(axes)
        for dimension in sorted(range(len(axes)), key=lambda d: axes[d] == "sequence"):
            axis = axes[dimension]
            free = () if axis is None else [a for a in self.axes(axis) if a not in taken]
            taken.update(free)
            entries[dimension] = tuple(free) or None
        return PartitionSpec(*entries)

    def parts(self, logical: LogicalAxis) -> int:
        """Return into how many parts a logical axis is split, manual axes counted."""
        return self.devices_along(self.axes(logical))

    def devices_along(self, axes: tuple[str, ...]) -> int:
        """Return how many devices stand along mesh axes."""
        lengths = dict(self.lengths)
        return math.prod(lengths[axis] for axis in axes)

    @property
    def summed(self) -> tuple[str, ...]:
        """Axes over which the gradients of every weight are summed."""
        return self.data + self.context

    @property
    def manual(self) -> tuple[str, ...]:
        """Axes that the step handles by its own collectives; JAX handles the others by type."""
        return self.pipeline + self.summed

    def without_stages(self) -> "Rules":
        """Return rules for a model that lies whole in every tensor group: all else is data."""
        return Rules(data=self.manual, tensor=self.tensor, lengths=self.lengths)
