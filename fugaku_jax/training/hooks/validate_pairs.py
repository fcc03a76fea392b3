"""Validation of what learns from pairs: how well the model tells held-out ones apart."""

import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, PyTree

from fugaku_jax.data.batch import Batch
from fugaku_jax.data.store import Store
from fugaku_jax.layout.layout import Layout
from fugaku_jax.models.gpt import GPT
from fugaku_jax.training.hooks.hook import CompletedStep, Hook, is_time
from fugaku_jax.training.precision import Precision
from fugaku_jax.training.preference import pair_count, pair_losses
from fugaku_jax.training.reference import losses_of, reference_of_run, rows_of
from fugaku_jax.training.whole_model import whole_model


class ValidatePairs(Hook):
    """Adds to a step's figures what held-out pairs cost, every `training.validate_every` steps.

    `validation_loss` is in nats a pair; `validation_margin` the mean of the margins, and
    `validation_accuracy` the share of pairs whose margin is above 0.
    """

    time_is_for = "validation"

    def __init__(self, layout: Layout, store: Store, run_dir: Path) -> None:
        self._layout, self._store = layout, store
        self._reference = reference_of_run(run_dir, store, "validation")

    def needs_state(self, step: int) -> bool:
        """Tell whether it is time."""
        training = self._layout.config.training
        return is_time(step, training.validate_every, training.steps)

    def after_step(self, done: CompletedStep) -> None:
        """Score the model, if it is time."""
        if done.state is None or not self.needs_state(done.number):
            return
        model = whole_model(self._layout, done.state.parameters, done.state.frozen)
        structure, weights = nnx.split(model)
        config, total = self._layout.config, np.zeros(4)
        most = config.training.validation_tokens
        for starts, batch in rows_of(self._store, "validation", self._layout, most):
            batch = replace(batch, reference=self._placed(starts, batch))
            static = structure, config.training.precision, config.tuning.beta
            with self._layout.active():
                total += np.asarray(_totals(*static, weights, batch))
        loss, margin, right, pairs = total.tolist()
        if pairs:
            done.figures["validation_loss"] = loss / pairs
            done.figures["validation_margin"] = margin / pairs
            done.figures["validation_accuracy"] = right / pairs

    def _placed(self, starts: np.ndarray, batch: Batch) -> Array:
        """Return what the rows are held to, where they lie."""
        shape, sharding = batch.weights.shape, batch.weights.sharding
        rows = np.resize(starts, shape[0])[:, None]
        block = self._reference[rows + np.arange(1, shape[1] + 1)]
        return jax.make_array_from_callback(shape, sharding, block.__getitem__)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _totals(
    structure: nnx.GraphDef[GPT],
    precision: Precision,
    beta: float,
    weights: PyTree[Float[Array, "..."]],
    batch: Batch,
) -> Float[Array, "4"]:
    """Return sums over the pairs of some rows: loss, margin, those told apart rightly, and one."""
    losses = losses_of(structure, precision, weights, batch)

    def add(losses: Array, batch: Batch) -> Array:
        rows = batch.reference, batch.weights, batch.segments
        pairs, count = pair_losses(losses, *rows, beta), pair_count(*rows[1:])
        right = (pairs.margins > 0).sum()
        return jnp.stack([pairs.total, pairs.margins.sum(), right, count])

    mesh = jax.sharding.get_abstract_mesh()
    everywhere: Any = PartitionSpec()
    add_up: Any = jax.sharding.auto_axes(add, axes=mesh.axis_names, out_sharding=everywhere)
    return add_up(losses, batch)
