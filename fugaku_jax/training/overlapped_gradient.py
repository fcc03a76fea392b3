"""The gradient of a batch whose last backward pass sums layers over replicas as it goes.

A layer's gradient is final once the last micro-batch has passed it on its way back. Its sum then
starts, and travels while the layer before it computes; what replicas keep is there at the end.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, PyTree

from fugaku_jax.layout.layout import Layout
from fugaku_jax.layout.placement import Collectives, Placement, Way
from fugaku_jax.models.lora import Adapted
from fugaku_jax.pipeline.buffers import empty
from fugaku_jax.pipeline.overlap import Overlap
from fugaku_jax.pipeline.stack import Fsdp
from fugaku_jax.training.gradient import Found, Weights, accumulated_gradient
from fugaku_jax.training.local_batch import LocalBatch
from fugaku_jax.training.precision import COMPUTE_DTYPES


class _Sums(NamedTuple):
    """Gradients of stacked layers, or of one, beside the weights."""

    sums: PyTree[Float[Array, "..."]]
    """What becomes of them, cut as the optimizer's state is; a value that nobody reads, but its
    gradient is what is looked for."""
    so_far: PyTree[Float[Array, "..."]] | None
    """Those of the micro-batches before, of this device alone."""


def overlap_of_layers(layout: Layout, collectives: Collectives) -> Overlap | None:
    """Return how the sums of layers travel; None if the step has to wait for them.

    It does so over links that only XLA drives, in a pipeline, where adapters are learned, and where
    replicas share the layers themselves. Under FSDP a layer's sums travel in every micro-batch, and
    need not be told here.
    """
    where = layout.placements["blocks"]
    is_place = {"is_leaf": lambda p: isinstance(p, Placement)}
    places: list[Placement] = jax.tree.leaves(where, **is_place)
    if layout.rules.pipeline or layout.is_lora or any(p.divided for p in places):
        return None
    if any(on == 0 for p in places for _, on in p.state):
        return None
    if not any(p.summed for p in places):
        return None
    return collectives.overlap(jax.tree.map(_way, where, **is_place))


def _way(place: Placement) -> Way:
    kept = {axis for axis, _ in place.state}
    scattered = tuple((axis, on - 1) for axis, on in place.state)
    return Way(scattered, tuple(axis for axis in place.summed if axis not in kept))


def overlapped_gradient(
    overlap: Overlap,
    layout: Layout,
    batch: LocalBatch,
    weights: Weights,
    fsdp: Fsdp,
    scale: Float[Array, ""],
    frozen: Weights | None = None,
) -> Found:
    """Add up loss and gradient as `accumulated_gradient` does, those of layers over replicas too.

    Args:
        overlap: how the sums of layers travel.
        layout: the run and where it lies; it and what follows as of `accumulated_gradient`.
        batch: this device's part of the batch.
        weights: this device's, which are whole.
        fsdp: of a block, which there is nothing to gather for.
        scale: what the gradient is multiplied by.
        frozen: nothing.

    Returns:
        as `accumulated_gradient`, but that gradients of layers are summed over replicas, and cut as
        the optimizer's state is.
    """
    last = batch.micro_batches - 1
    so_far: Found = jnp.float32(0), None, {}
    if last:
        so_far = accumulated_gradient(layout, batch, weights, fsdp, scale, frozen, last)
    own = {name: tree for name, tree in weights.items() if name != "blocks"}
    training = layout.config.training
    blocks, before = weights["blocks"], so_far[2].get("blocks")

    def start(gradients: Weights, layer: Adapted) -> PyTree:
        if layer.adapters.so_far is not None:
            gradients = jax.tree.map(jnp.add, layer.adapters.so_far, gradients)
        return overlap.start(gradients, None)

    def done(under_way: PyTree, after: PyTree) -> Adapted:
        return Adapted(_Sums(overlap.done(under_way, after), None), None)

    def zero(layers: Adapted) -> Adapted:
        return Adapted(_Sums(jax.tree.map(jnp.zeros_like, layers.adapters.sums), None), None)

    travelling = Overlap(start, done, overlap.nothing)

    def loss_of(own: Weights, sums: Weights) -> tuple[Array, Array | None]:
        model = nnx.merge(layout.structure, own | {"blocks": blocks})
        hidden = model(
            *batch.inputs(last),
            dtype=COMPUTE_DTYPES[training.precision],
            remat=training.remat,
            fsdp=Fsdp(lambda layer: layer.frozen, zero=zero, overlap=travelling),
            adapters=_Sums(sums, before),
        )
        return batch.loss(model, hidden, last)

    loss, pullback, losses = jax.vjp(loss_of, own, _sums_like(blocks, overlap), has_aux=True)
    found, summed = pullback(scale)
    if last:
        loss, found = jax.tree.map(
            jnp.add, (so_far[0], {name: so_far[2][name] for name in own}), (loss, found)
        )
    if losses is not None:
        before_it = [] if so_far[1] is None else [so_far[1]]
        losses = jnp.concatenate([*before_it, losses[None]])
    return loss, losses, {"blocks": summed} | found


def _sums_like(stacks: Weights, overlap: Overlap) -> Weights:
    """Return arrays of what becomes of stacked gradients."""

    def one(layer: Weights) -> Weights:
        started = overlap.start(layer, None)
        return overlap.done(started, started)

    types = jax.eval_shape(one, jax.tree.map(lambda stack: stack[0], stacks))
    count = len(jax.tree.leaves(stacks)[0])
    return jax.tree.map(lambda like: empty(count, like), types)
