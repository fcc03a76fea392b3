"""The gradient of a batch on one device of the mesh: its rows, its positions, its weights.

What is written here runs inside the step's `shard_map`: an array is this device's part, and the
sums over devices are asked for by name.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, PyTree

from fugaku_jax.kernels.dropout import Dropout
from fugaku_jax.kernels.loss import cross_entropy
from fugaku_jax.layout.layout import Layout
from fugaku_jax.layout.placement import shard_of
from fugaku_jax.models.gpt import GPT, block_layer
from fugaku_jax.models.segments import document_segments
from fugaku_jax.pipeline.split_stack import backward_inputs, backward_weights, left_types
from fugaku_jax.pipeline.stack import (
    Exchange,
    Run,
    backward_layers,
    forward_layers,
    kept_types,
    scan_layers,
)
from fugaku_jax.pipeline.stage_program import StageProgram
from fugaku_jax.training.precision import COMPUTE_DTYPES


class Part:
    """What this device computes of a micro-batch."""

    def __init__(
        self,
        layout: Layout,
        end_of_document: int,
        step_key: Array,
        tokens: Int[Array, "M B T_plus_1"],
    ) -> None:
        """Take the device's rows of a batch, cut into micro-batches; positions are all there."""
        self.structure, self.config, self.rules = layout.structure, layout.config, layout.rules
        self.end_of_document = end_of_document
        self.tokens = tokens
        self.masks = None
        model = layout.config.model
        if model.dropout > 0 or model.attention_dropout > 0:
            self.masks = Dropout(step_key, model.sequence_length)

    def inputs(self, index: Array | int) -> tuple[Array, Array | None, Array | None, Any]:
        """Return a micro-batch's tokens and positions `[B, T]`, segment ids and dropout.

        Where devices share a sequence, tokens and positions are this device's; segment ids are
        those of the whole sequence. Where tensor devices share positions that do not divide, some
        are added behind this device's own. As they stand last nobody else attends to them, and no
        loss is asked of them, so that nothing of them is in a gradient but zeros.
        """
        tokens = self.tokens[index][:, :-1]
        positions = segment_ids = None
        if self.config.data.reset_at_document:
            positions, segment_ids = document_segments(tokens, self.end_of_document)
            if not self.rules.context:
                segment_ids = self._filled(segment_ids)
        elif self.rules.context or self._missing:
            shape, axes = tokens.shape, jax.typeof(tokens).sharding
            positions = jax.lax.broadcasted_iota(jnp.int32, shape, 1, out_sharding=axes)
        if positions is not None:
            positions = self._filled(self._own(positions))
        masks = self.masks
        if masks is not None:
            masks = Dropout(
                masks.key, masks.sequence_length, self._first_row(index), self._first_position()
            )
        return self._filled(self._own(tokens)), positions, segment_ids, masks

    def targets(self, index: Array | int) -> Int[Array, "B T"]:
        """Return the tokens to predict, at this device's positions."""
        return self._own(self.tokens[index][:, 1:])

    def loss(
        self, model: GPT, hidden: Float[Array, "B T D"], index: Array | int
    ) -> Float[Array, ""]:
        """Sum the loss over the positions of a micro-batch, in nats."""
        targets = self.targets(index)
        return cross_entropy(
            model.whole(hidden)[:, : targets.shape[1]],
            model.output_table,
            targets,
            jnp.ones(targets.shape, jnp.float32, out_sharding=jax.typeof(targets).sharding),
            self.config.model.vocab_size,
            self.config.training.z_loss,
        )

    def _own(self, x: Int[Array, "B T_all"]) -> Int[Array, "B T"]:
        """Cut out this device's positions."""
        return shard_of(x, tuple((axis, 1) for axis in self.rules.context))

    def _filled(self, x: Int[Array, "B T_own"]) -> Int[Array, "B T"]:
        """Add positions until tensor devices can share them equally."""
        return jnp.pad(x, ((0, 0), (0, self._missing)), mode="edge") if self._missing else x

    @property
    def _length(self) -> int:
        """Positions of a sequence that are this device's."""
        return self.config.model.sequence_length // self.rules.devices_along(self.rules.context)

    @property
    def _missing(self) -> int:
        """How many positions that lacks to be shared equally by tensor devices."""
        rules = self.rules
        return -self._length % rules.devices_along(rules.tensor if rules.sequence_parallel else ())

    def _first_position(self) -> Array | int:
        axes = self.rules.context
        return jax.lax.axis_index(axes) * self._length if axes else 0

    def _first_row(self, index: Array | int) -> Array | int:
        """Rows count through the whole batch, so masks do not depend on how it is cut."""
        rows = self.tokens.shape[1]
        axes = self.rules.data
        replica = jax.lax.axis_index(axes) if axes else 0
        return (index * self.rules.parts("batch") + replica) * rows


def accumulated_gradient(
    part: Part,
    parameters: PyTree[Array],
    exchange: Exchange,
    weight: Float[Array, ""],
) -> tuple[Float[Array, ""], PyTree[Array]]:
    """Add up the loss and its gradient over the micro-batches, one after the other.

    Args:
        parameters: this device's; blocks as they are stored, the others whole.
        exchange: gathers and scatters a block's weights.
        weight: what the gradient is multiplied by, a loss scale for instance.

    Returns:
        the summed loss of this device's positions, and the gradients, of the shapes of the
        parameters and not yet summed over devices but for what `exchange` scatters.
    """
    config = part.config

    def loss_of(parameters: PyTree[Array], index: Array) -> Array:
        model = nnx.merge(part.structure, parameters)
        tokens, positions, segment_ids, masks = part.inputs(index)
        dtype = COMPUTE_DTYPES[config.training.precision]
        x = model.embed(tokens, positions, masks, dtype)
        layer = block_layer(nnx.split(model.blocks)[0], config.training.remat)
        numbers = jnp.arange(config.model.n_layers)
        given = (positions, segment_ids, masks)
        x = scan_layers(layer, x, parameters["blocks"], numbers, given, exchange)
        return part.loss(model, model.norm(x), index)

    def add_micro_batch(
        total: tuple[Array, PyTree[Array]], index: Array
    ) -> tuple[tuple[Array, PyTree[Array]], None]:
        loss, pullback = jax.vjp(lambda p: loss_of(p, index), parameters)
        (gradient,) = pullback(weight)
        return (total[0] + loss, jax.tree.map(jnp.add, total[1], gradient)), None

    zero = (jnp.float32(0), jax.tree.map(jnp.zeros_like, parameters))
    return jax.lax.scan(add_micro_batch, zero, jnp.arange(part.tokens.shape[0]))[0]


def stage_program(part: Part, parameters: PyTree[Array], exchange: Exchange) -> StageProgram:
    """Cut the model up for a pipeline.

    Args:
        parameters: this device's; only their structure matters.
        exchange: gathers and scatters a block's weights.
    """
    config = part.config

    def model_of(shared: PyTree[Array]) -> GPT:
        return nnx.merge(part.structure, {"blocks": parameters["blocks"]} | shared)

    blocks = nnx.split(model_of({n: p for n, p in parameters.items() if n != "blocks"}).blocks)[0]
    layer = block_layer(blocks, config.training.remat)

    def embed(shared: PyTree[Array], index: Array) -> Array:
        tokens, positions, _, masks = part.inputs(index)
        dtype = COMPUTE_DTYPES[config.training.precision]
        return model_of(shared).embed(tokens, positions, masks, dtype)

    def given(index: Array | int) -> Any:
        _, *given = part.inputs(index)
        return tuple(given)

    def loss(shared: PyTree[Array], y: Array, index: Array) -> Array:
        model = model_of(shared)
        return part.loss(model, model.norm(y), index)

    return StageProgram(
        embed=embed,
        kept_types=lambda weights, chunk, x, index: kept_types(
            layer, x, weights, Run(*chunk), given(index), exchange
        ),
        forward=lambda weights, chunk, x, index, buffers, row: forward_layers(
            layer, x, weights, Run(*chunk), given(index), buffers, row, exchange
        ),
        backward=lambda kept, row, weights, chunk, dy, total: backward_layers(
            kept, row, weights, Run(*chunk), dy, total, exchange
        ),
        left_types=lambda kept, weights, dy: left_types(kept, weights, dy, exchange),
        backward_input=lambda kept, row, weights, chunk, dy, left, left_row: backward_inputs(
            kept, row, weights, Run(*chunk), dy, left, left_row, exchange
        ),
        backward_weight=lambda kept, row, weights, chunk, dy, left, left_row, total: (
            backward_weights(kept, row, weights, Run(*chunk), dy, left, left_row, total, exchange)
        ),
        loss=loss,
    )
