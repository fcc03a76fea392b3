"""A device's part of a batch: its rows, its positions and its dropout, micro-batch by micro-batch.

What is here runs inside the step's `shard_map`: B are rows of this device, T its positions, T_all
those of the whole sequence; tensor axes alone are in the types.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Key, Shaped

from fugaku_jax.data.batch import Batch
from fugaku_jax.kernels.dropout import Dropout
from fugaku_jax.layout.layout import Layout
from fugaku_jax.layout.placement import shard_of
from fugaku_jax.models.gpt import GPT, Inputs
from fugaku_jax.models.segments import positions_in
from fugaku_jax.training.preference import pair_losses

Index = Int[Array, ""] | int
"""Number of a micro-batch."""


class LocalBatch:
    """What this device computes the loss of."""

    def __init__(
        self, layout: Layout, batch: Batch, key: Key[Array, ""], keep_losses: bool
    ) -> None:
        """Take the device's rows of a batch; positions are all there.

        Args:
            layout: the run and where it lies.
            batch: micro-batches of rows.
            key: of the step's dropout.
            keep_losses: whether the loss of each position is wanted.
        """
        self.config, self.rules, self.batch = layout.config, layout.rules, batch
        self._keep_losses = keep_losses
        model = layout.config.model
        self._masks = None
        if model.dropout > 0 or model.attention_dropout > 0:
            self._masks = Dropout(key, model.sequence_length)

    @property
    def micro_batches(self) -> int:
        """How many there are (M)."""
        return self.batch.tokens.shape[0]

    def inputs(self, m: Index) -> Inputs:
        """Return what the model reads of a micro-batch.

        Where devices share a sequence, tokens and positions are this device's; segment ids are
        those of the whole sequence. Where tensor devices share positions that do not divide, some
        are added behind this device's own. As they stand last nobody else attends to them, and no
        loss is asked of them, so that nothing of them is in a gradient but zeros.
        """
        tokens, segment_ids, positions = self.batch.tokens[m][:, :-1], None, None
        if self.batch.segments is not None:
            segment_ids = self.batch.segments[m]
            positions = positions_in(segment_ids)
            if not self.rules.context:
                segment_ids = self._filled(segment_ids)
        elif self.rules.context or self._missing:
            shape, axes = tokens.shape, jax.typeof(tokens).sharding
            positions = jax.lax.broadcasted_iota(jnp.int32, shape, 1, out_sharding=axes)
        if positions is not None:
            positions = self._filled(self._own(positions))
        return Inputs(self._filled(self._own(tokens)), positions, segment_ids, self._dropout(m))

    def loss(
        self, model: GPT, hidden: Float[Array, "B T D"], m: Index
    ) -> tuple[Float[Array, ""], Float[Array, "B T"] | None]:
        """Return the weighted sum of the losses of a micro-batch, in nats, and each if wanted.

        With DPO the sum is that over pairs of answers, and what is returned besides their margins.
        """
        if self.batch.reference is not None:
            return self._pair_losses(model, hidden, m)
        targets, weights = self.batch.tokens[m][:, 1:], self.batch.weights
        weights = None if weights is None else self._own(weights[m])
        z_loss = self.config.training.z_loss
        loss, losses = model.loss(hidden, self._own(targets), weights, z_loss)
        return loss, losses if self._keep_losses else None

    def _pair_losses(
        self, model: GPT, hidden: Float[Array, "B T D"], m: Index
    ) -> tuple[Float[Array, ""], Float[Array, "B T"]]:
        batch = self.batch
        targets, weights = batch.tokens[m][:, 1:], batch.weights[m]
        # Of a function of the losses, its slopes are what each counts; so they are found first.
        fixed = jax.tree.map(jax.lax.stop_gradient, nnx.state(model))
        found = nnx.merge(nnx.graphdef(model), fixed).loss(
            jax.lax.stop_gradient(hidden), targets, weights
        )
        beta = self.config.tuning.beta
        pairs = pair_losses(found[1], batch.reference[m], weights, batch.segments[m], beta)
        linear, _ = model.loss(hidden, targets, pairs.slopes)
        return linear + jax.lax.stop_gradient(pairs.total - linear), pairs.margins

    def _own(self, x: Shaped[Array, "B T_all"]) -> Shaped[Array, "B T"]:
        """Cut out this device's positions."""
        return shard_of(x, tuple((axis, 1) for axis in self.rules.context))

    def _filled(self, x: Int[Array, "B T"]) -> Int[Array, "B T_filled"]:
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

    def _dropout(self, m: Index) -> Dropout | None:
        """Rows count through the whole batch, so masks do not depend on how it is cut."""
        masks, rules = self._masks, self.rules
        if masks is None:
            return None
        replica = jax.lax.axis_index(rules.data) if rules.data else 0
        row = (m * rules.parts("batch") + replica) * self.batch.tokens.shape[1]
        position = jax.lax.axis_index(rules.context) * self._length if rules.context else 0
        return Dropout(masks.key, masks.sequence_length, row, position)
