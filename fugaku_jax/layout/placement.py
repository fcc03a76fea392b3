"""Where each weight, its gradient and its optimizer state lie among the manual axes of the mesh.

Tensor parallelism is in the arrays' types and JAX takes care of it. What the step does by its own
collectives is written down here, weight by weight: which axes split the weight itself (stages, and
replicas under FSDP), which ones split the state besides (ZeRO-1), and over which ones a gradient is
only summed.

Source: Rajbhandari et al., "ZeRO: Memory Optimizations Toward Training Trillion Parameter
Models", 2020, whose third stage is also known as FSDP (Zhao et al., "PyTorch FSDP", 2023).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, PyTree, Shaped

from fugaku_jax.collectives.sums import Placed, all_gather, all_reduce, reduce_scatter
from fugaku_jax.config import MeshConfig
from fugaku_jax.kernels.adamw import sum_of_squares
from fugaku_jax.layout.rules import Rules
from fugaku_jax.pipeline.overlap import Overlap


@dataclass(frozen=True)
class Placement:
    """Where one weight lies."""

    explicit: PartitionSpec
    """How its dimensions are split by tensor axes."""
    weight: Placed
    """(axis, dimension) pairs that split the weight and its gradient."""
    state: Placed
    """Pairs that split the optimizer's state besides."""
    summed: tuple[str, ...]
    """Axes of replicas, over which the gradient has to be summed; those of `state` among them."""
    ends: tuple[str, ...] = ()
    """The axes of the stages, if only the first and the last of these hold the weight. They then
    split dimension 0, the outermost of it, as `ends` tells."""

    @property
    def divided(self) -> Placed:
        """Pairs of `weight` that divide it among replicas."""
        return tuple((axis, on) for axis, on in self.weight if axis in self.summed)

    def spec(self, *, state: bool, manual_only: bool = False) -> PartitionSpec:
        """Return the partition of the weight or of its state, for arrays of the whole mesh.

        Args:
            state: of the state rather than the weight.
            manual_only: leave the tensor axes out, as `shard_map` wants it.
        """
        placed = self.weight + (self.state if state else ())
        entries: list[tuple[str, ...] | None] = []
        for dimension, explicit in enumerate(self.explicit):
            axes = tuple(axis for axis, on in placed if on == dimension)
            if explicit is not None and not manual_only:
                axes += (explicit,) if isinstance(explicit, str) else tuple(explicit)
            entries.append(axes or None)
        return PartitionSpec(*entries)


class Way(NamedTuple):
    """What becomes of the gradient of one layer's weight."""

    scattered: Placed
    """(axis, dimension) pairs over which it is summed, each device keeping its part."""
    summed: tuple[str, ...] = ()
    """Axes over which it is only summed."""


@dataclass(frozen=True)
class Collectives:
    """The collectives of a step, as XLA has them."""

    def gather(self, x: Shaped[Array, "..."], placed: Placed) -> Shaped[Array, "..."]:
        """Join the parts of all devices."""
        return all_gather(x, placed) if placed else x

    def scatter(self, x: Shaped[Array, "..."], placed: Placed) -> Shaped[Array, "..."]:
        """Sum over the devices; each keeps its part."""
        return reduce_scatter(x, placed) if placed else x

    def sum(self, x: Shaped[Array, "*x"], axes: tuple[str, ...]) -> Shaped[Array, "*x"]:
        """Sum over the devices."""
        return all_reduce(x, axes) if axes else x

    def overlap(self, ways: PyTree[Way]) -> Overlap | None:
        """Return how a layer's gradients travel while others compute; None if they do not."""
        del ways
        return None


def place(
    shape: tuple[int, ...],
    explicit: PartitionSpec,
    sizes: dict[str, int],
    rules: Rules,
    config: MeshConfig,
    *,
    stacked: bool,
) -> Placement:
    """Decide where a weight lies.

    An axis is given to a dimension that it divides: the longest that no tensor axis splits. What no
    dimension takes (a bias of odd length) stays whole, and is summed.

    Args:
        shape: of the whole weight, as one stage has it if it is not stacked.
        explicit: how tensor axes split it.
        sizes: of the mesh axes.
        stacked: whether its first dimension counts layers, which stages share; what is not is used
            by the first and the last stage alone.
    """
    explicit = PartitionSpec(*explicit, *[None] * (len(shape) - len(explicit)))
    free = [size if axis is None else 0 for size, axis in zip(shape, explicit, strict=True)]
    weight: Placed = tuple((axis, 0) for axis in rules.pipeline)
    summed, ends = rules.summed, () if stacked else rules.pipeline
    if stacked:
        free[0] //= math.prod(sizes[axis] for axis in rules.pipeline)
    state: Placed = ()
    if config.weights == "fsdp":
        # A layer is gathered when it is its turn, so its own dimensions are split.
        within = [0, *free[1:]] if stacked else free
        weight += _divide(within, summed, sizes)
    elif config.weights == "zero1":
        state = _divide(free, summed, sizes)
    return Placement(explicit, weight, state, summed, ends)


def shard_of(x: Shaped[Array, "..."], placed: Placed) -> Shaped[Array, "..."]:
    """Cut this device's part out of an array that it has whole."""
    for dimension in sorted({on for _, on in placed}):
        axes = tuple(axis for axis, on in placed if on == dimension)
        size = x.shape[dimension] // math.prod(jax.lax.axis_size(axis) for axis in axes)
        start = jax.lax.axis_index(axes) * size
        x = jax.lax.dynamic_slice_in_dim(x, start, size, dimension)
    return x


def squared_norm(
    arrays: PyTree[Float[Array, "..."]], placements: PyTree[Placement]
) -> Float[Array, ""]:
    """Sum the squares of all elements of arrays that lie as the optimizer's state does.

    What the first and the last stage hold counts once.
    """
    by_axes: dict[tuple[tuple[str, ...], tuple[str, ...]], list[Array]] = {}
    pairs = zip(jax.tree.leaves(arrays), jax.tree.leaves(placements), strict=True)
    for array, placement in pairs:
        axes = tuple(sorted({axis for axis, _ in placement.weight + placement.state}))
        by_axes.setdefault((axes, placement.ends), []).append(sum_of_squares(array))
    total = jax.numpy.float32(0)
    for (axes, ends), squares in by_axes.items():
        part = sum(squares[1:], start=squares[0])
        if ends:
            part = jax.numpy.where(jax.lax.axis_index(ends) == 0, part, 0)
        total += all_reduce(part, axes) if axes else part
    return total


def _divide(free: Sequence[int], axes: tuple[str, ...], sizes: dict[str, int]) -> Placed:
    """Give each axis the longest dimension that it divides; each comes innermost there."""
    left = list(free)
    placed = []
    for axis in axes:
        fitting = [d for d, size in enumerate(left) if size and size % sizes[axis] == 0]
        if fitting:
            dimension = max(fitting, key=lambda d: (left[d], d))
            left[dimension] //= sizes[axis]
            placed.append((axis, dimension))
    return tuple(placed)
