"""The gradient of a batch on one device of the mesh: its rows, its positions, its weights.

What is written here runs inside the step's `shard_map`: an array is this device's part, and the
sums over devices are asked for by name.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, PyTree

from fugaku_jax.layout.layout import Layout
from fugaku_jax.models.gpt import GPT, Inputs, block_layer
from fugaku_jax.models.lora import Adapted
from fugaku_jax.pipeline.executor import Executor
from fugaku_jax.pipeline.stack import Fsdp
from fugaku_jax.pipeline.stage_program import Index, StageProgram, Stream
from fugaku_jax.training.local_batch import LocalBatch
from fugaku_jax.training.precision import COMPUTE_DTYPES

Weights = PyTree[Float[Array, "..."]]
Found = tuple[Float[Array, ""], Float[Array, "M B T"] | None, Weights]
"""The summed loss of this device's positions (in a pipeline of the last stage, 0 elsewhere), the
loss of each or None, and the gradients, of the shapes of the weights and not yet summed over
devices but for what FSDP scatters."""


def accumulated_gradient(
    layout: Layout,
    batch: LocalBatch,
    weights: Weights,
    fsdp: Fsdp,
    scale: Float[Array, ""],
    frozen: Weights | None = None,
    count: int | None = None,
) -> Found:
    """Add up the loss and its gradient over the micro-batches, one after the other.

    Args:
        layout: the run and where it lies.
        batch: this device's part of the batch.
        weights: this device's; blocks as they are stored, the others whole. With LoRA the adapters.
        fsdp: gathers and scatters a block's weights.
        scale: what the gradient is multiplied by, a loss scale for instance.
        frozen: the weights, where adapters are learned.
        count: how many micro-batches, from the first; all if not given.
    """
    training = layout.config.training

    def loss_of(weights: Weights, m: Array) -> tuple[Array, Array | None]:
        model = nnx.merge(layout.structure, weights if frozen is None else frozen)
        options: dict[str, Any] = {"dtype": COMPUTE_DTYPES[training.precision], "fsdp": fsdp}
        options["adapters"] = None if frozen is None else weights["blocks"]
        hidden = model(*batch.inputs(m), remat=training.remat, **options)
        return batch.loss(model, hidden, m)

    def add_micro_batch(
        total: tuple[Array, Weights], m: Array
    ) -> tuple[tuple[Array, Weights], Array | None]:
        loss, pullback, losses = jax.vjp(lambda w: loss_of(w, m), weights, has_aux=True)
        (gradient,) = pullback(scale)
        return (total[0] + loss, jax.tree.map(jnp.add, total[1], gradient)), losses

    zero = (jnp.float32(0), jax.tree.map(jnp.zeros_like, weights))
    numbers = jnp.arange(batch.micro_batches if count is None else count)
    (loss, gradient), losses = jax.lax.scan(add_micro_batch, zero, numbers)
    return loss, losses, gradient


def pipelined_gradient(
    layout: Layout,
    batch: LocalBatch,
    weights: Weights,
    fsdp: Fsdp,
    scale: Float[Array, ""],
    frozen: Weights | None = None,
) -> Found:
    """Do so by the layout's schedule; arguments as of `accumulated_gradient`."""
    shared = {name: tree for name, tree in weights.items() if name != "blocks"}
    layers = weights["blocks"]
    if frozen is not None:
        layers = Adapted(layers, frozen["blocks"])
    schedule, slots = layout.pipeline
    done = Executor(
        _ModelStages(layout, batch, weights if frozen is None else frozen, fsdp),
        *(schedule, slots, layers, shared),
        *(layout.stages.layers, layout.rules.pipeline, scale),
    ).run()
    d_layers = done.d_weights if frozen is None else done.d_weights.adapters
    return done.loss, done.losses, {"blocks": d_layers} | done.d_shared


class _ModelStages(StageProgram):
    """The model, cut up for a pipeline."""

    def __init__(self, layout: Layout, batch: LocalBatch, weights: Weights, fsdp: Fsdp) -> None:
        self._structure, self._batch, self._weights = layout.structure, batch, weights
        self._training = layout.config.training
        blocks, _ = nnx.split(nnx.merge(layout.structure, weights).blocks)
        super().__init__(block_layer(blocks, self._training.remat), fsdp)

    def inputs(self, m: Index) -> Inputs:
        return self._batch.inputs(m)

    def embed(self, shared: Weights, m: Index) -> Stream:
        dtype = COMPUTE_DTYPES[self._training.precision]
        return self._model(shared).embed(self.inputs(m), dtype)

    def loss(self, shared: Weights, y: Stream, m: Index) -> tuple[Float[Array, ""], Any]:
        model = self._model(shared)
        return self._batch.loss(model, model.norm(y), m)

    def _model(self, shared: Weights) -> GPT:
        return nnx.merge(self._structure, self._weights | shared)  # none is shared if all is frozen
