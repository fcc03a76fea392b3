"""Which mesh axes carry which logical axis of an array: the one table that says it.

No other file names a mesh axis. A weight or an activation is described by logical axes, e.g.
`spec("embed", "mlp")`, and this table turns them into a `PartitionSpec`.
"""

from typing import Literal

from jax.sharding import PartitionSpec

LogicalAxis = Literal["batch", "sequence", "vocab", "heads", "mlp", "embed", "layers"]

RULES: dict[LogicalAxis, tuple[str, ...] | None] = {
    "batch": ("x", "y", "z"),
    "sequence": None,
    "vocab": ("a", "b", "c"),
    "heads": ("a", "b", "c"),
    "mlp": ("a", "b", "c"),
    "embed": None,
    "layers": None,
}
"""Logical axis -> mesh axes it is split over; None is not split."""


def spec(*axes: LogicalAxis | None) -> PartitionSpec:
    """Return the partition of an array whose dimensions have the given logical axes.

    Args:
        axes: one logical axis a dimension; None for a dimension that is never split.
    """
    return PartitionSpec(*(None if axis is None else RULES[axis] for axis in axes))
