"""Sums of a layer's gradients that travel while the layer before it computes."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
from jaxtyping import Array, Float, PyTree

from fugaku_jax.collectives.links import Links
from fugaku_jax.collectives.started import (
    Started,
    done,
    nothing,
    start_all_reduce,
    start_reduce_scatter,
)
from fugaku_jax.collectives.torus import long_axes
from fugaku_jax.layout.placement import Way, shard_of
from fugaku_jax.pipeline.buffers import empty, read


class UnderWay(NamedTuple):
    """The gradients of a layer, on their way."""

    started: list[Started]
    """Sums, one for all gradients that go the same way."""
    others: list[Array]
    """Gradients that are not summed, as they are."""


@dataclass(frozen=True)
class LayerSums:
    """How the gradients of a layer are started, and what is done with them a layer later."""

    links: Links
    """What carries them."""
    ways: PyTree[Way]
    """Of each weight."""

    def start(self, gradients: PyTree[Float[Array, "..."]]) -> UnderWay:
        """Start all sums of a layer."""
        leaves, groups = jax.tree.leaves(gradients), self._groups()
        under_way = UnderWay([], [leaves[n] for n in groups.get(None, ())])
        for group, members in groups.items():
            own = [leaves[n] for n in members]
            if group is None:
                continue
            axes, scatters = group
            if scatters:
                placed = [self._leaves()[n].scattered for n in members]
                under_way.started.append(start_reduce_scatter(self.links, own, placed))
            else:
                under_way.started.append(start_all_reduce(self.links, own, axes))
        return under_way

    def done(self, under_way: UnderWay, after: UnderWay) -> PyTree[Float[Array, "..."]]:
        """Return the gradients: sums, or this device's part of them."""
        found: dict[int, Array] = {}
        groups = self._groups()
        found.update(zip(groups.pop(None, ()), under_way.others, strict=True))
        pairs = zip(under_way.started, after.started, strict=True)
        for (group, members), (own, other) in zip(groups.items(), pairs, strict=True):
            scatters = group is not None and group[1]
            for n, x in zip(members, done(own, other), strict=True):
                found[n] = x if scatters else shard_of(x, self._leaves()[n].scattered)
        return jax.tree.unflatten(self._structure(), [found[n] for n in sorted(found)])

    def nothing(self, like: UnderWay) -> UnderWay:
        """Return what is done with as zeros; `like` is the type of others."""
        zeros = [empty(1, each) for each in like.others]
        return UnderWay([nothing(each) for each in like.started], read(zeros, 0))

    def _leaves(self) -> list[Way]:
        return jax.tree.leaves(self.ways, is_leaf=_is_way)

    def _structure(self) -> jax.tree_util.PyTreeDef:
        return jax.tree.structure(self.ways, is_leaf=_is_way)

    def _groups(self) -> dict[tuple[tuple[str, ...], bool] | None, list[int]]:
        """Group weights by the axes of their sums and whether these are scattered."""
        groups: dict[tuple[tuple[str, ...], bool] | None, list[int]] = {}
        for n, way in enumerate(self._leaves()):
            axes = (*(axis for axis, _ in way.scattered), *way.summed)
            key = (axes, not way.summed) if long_axes(self.links, axes) else None
            groups.setdefault(key, []).append(n)
        return groups


def _is_way(x: object) -> bool:
    return isinstance(x, Way)
