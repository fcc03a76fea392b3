"""Gradients summed over replicas and over the ends of a pipeline, inside the step's `shard_map`."""

import jax
from jaxtyping import Array, PyTree

from fugaku_jax.collectives.sums import Placed
from fugaku_jax.layout.ends import is_end, sum_of_ends
from fugaku_jax.layout.placement import Collectives, Placement, shard_of
from fugaku_jax.pipeline.carry import when


def reduced_gradients(
    gradients: PyTree[Array],
    where: PyTree[Placement],
    collectives: Collectives,
    pipeline: tuple[str, ...],
    layers_done: bool = False,
) -> PyTree[Array]:
    """Sum gradients over devices, and keep the parts whose state is here.

    Args:
        gradients: this device's; those of layers are summed already over the axes that divide
            their weights, layer by layer, on the way back.
        where: placements of the weights.
        collectives: how sums are taken.
        pipeline: mesh axes of the stages.
        layers_done: whether those of layers are summed already over all axes.
    """

    def sum_layers(gradient: Array, placement: Placement) -> Array:
        return _sum_over_replicas(gradient, placement, (), collectives)

    def sum_others(gradient: Array, placement: Placement) -> Array:
        summed = _sum_over_replicas(gradient, placement, placement.divided, collectives)
        return sum_of_ends(summed, placement.ends) if placement.ends else summed

    others = {name: tree for name, tree in gradients.items() if name != "blocks"}
    places = {name: tree for name, tree in where.items() if name != "blocks"}
    blocks = gradients["blocks"]
    if not layers_done:
        blocks = jax.tree.map(sum_layers, blocks, where["blocks"])
    if not pipeline or not others:
        return {"blocks": blocks} | jax.tree.map(sum_others, others, places)
    where_of = jax.tree.leaves(places)

    leaves, tree = jax.tree.flatten(others)
    whole = {n: x for n, x in enumerate(leaves) if where_of[n].divided + where_of[n].state}

    def at_the_ends(own: list[Array], whole: dict[int, Array]) -> list[Array]:
        # What no replica keeps a part of is summed in place.
        return [sum_others(whole.get(n, x), where_of[n]) for n, x in enumerate(own)]

    # The stages between have nothing to add, and need no sum.
    own = [shard_of(x, p.divided + p.state) for x, p in zip(leaves, where_of, strict=True)]
    summed = when(is_end(pipeline), at_the_ends, own, whole)
    return {"blocks": blocks} | tree.unflatten(summed)


def _sum_over_replicas(
    gradient: Array, placement: Placement, divided: Placed, collectives: Collectives
) -> Array:
    """Sum a gradient over replicas, and keep this device's part.

    Args:
        divided: pairs that divide the weight and over which it was not summed yet.
    """
    gradient = collectives.scatter(gradient, divided)
    gradient = collectives.scatter(gradient, placement.state)
    done = {axis for axis, _ in placement.divided + placement.state}
    return collectives.sum(gradient, tuple(a for a in placement.summed if a not in done))
