"""One optimizer step: a pure function from state and tokens to state and metrics."""

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float, Int, Key, PyTree

from fugaku_jax.config import Config
from fugaku_jax.kernels.loss import cross_entropy
from fugaku_jax.models.gpt import GPT
from fugaku_jax.models.segments import document_segments
from fugaku_jax.training.optimizer import (
    Moments,
    clip_factor,
    init_moments,
    make_schedule,
    update,
)
from fugaku_jax.training.precision import COMPUTE_DTYPES, LossScale, initial_loss_scale

Metrics = dict[str, Float[Array, ""]]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """Everything that a step changes."""

    parameters: PyTree[Array]
    """Master weights, fp32, as nested dictionaries."""
    moments: Moments
    """What the optimizer remembers."""
    step: Int[Array, ""]
    """Steps taken; it is also the position in the data and the seed of dropout."""
    loss_scale: LossScale | None
    """Dynamic loss scale; None but in fp16."""


def abstract_model(config: Config) -> tuple[nnx.GraphDef[GPT], PyTree[jax.ShapeDtypeStruct]]:
    """Return the model's structure and the shapes of its weights, allocating nothing."""
    model = jax.eval_shape(lambda: GPT(config.model, jax.random.key(0)))
    structure, shapes = nnx.split(model)
    return structure, nnx.to_pure_dict(shapes)


@functools.partial(jax.jit, static_argnums=0)
def init_state(config: Config) -> TrainState:
    """Make the state that a run starts from, each array already where its sharding says."""
    model_key, _ = _keys(config)
    parameters = nnx.to_pure_dict(nnx.state(GPT(config.model, model_key)))
    return TrainState(
        parameters=parameters,
        moments=init_moments(parameters),
        step=jnp.int32(0),
        loss_scale=initial_loss_scale(config.training.precision),
    )


def make_train_step(config: Config, end_of_document: int) -> jax.stages.Wrapped:
    """Compile the step of a run.

    The tokens of a batch are `[M, B, T + 1]`: M micro-batches of B samples, whose gradients are
    accumulated in fp32. A step whose gradient is not finite leaves weights and moments as they
    are; its `skipped` is 1.

    Args:
        config: the run.
        end_of_document: the token at which attention starts anew, if the run wants that.

    Returns:
        a jitted function of state and tokens that gives the next state and the step's metrics
        (fp32 scalars); it consumes (donates) the state it is given.
    """
    structure, _ = abstract_model(config)
    schedule = make_schedule(config)
    _, dropout_key = _keys(config)
    uses_dropout = config.model.dropout > 0 or config.model.attention_dropout > 0

    def loss_of(parameters: PyTree[Array], tokens: Array, key: Key[Array, ""]) -> Array:
        model = nnx.merge(structure, parameters)
        return _summed_loss(model, tokens, config, end_of_document, key if uses_dropout else None)

    def gradient(state: TrainState, tokens: Array) -> tuple[Array, PyTree[Array]]:
        """Return mean loss and its gradient, still multiplied by the loss scale."""
        scale = jnp.float32(1) if state.loss_scale is None else state.loss_scale.scale
        step_key = jax.random.fold_in(dropout_key, state.step)
        weight = scale / config.tokens_per_step

        def add_micro_batch(
            total: tuple[Array, PyTree[Array]], micro: tuple[Array, Array]
        ) -> tuple[tuple[Array, PyTree[Array]], None]:
            index, tokens = micro
            key = jax.random.fold_in(step_key, index)
            loss, pullback = jax.vjp(lambda p: loss_of(p, tokens, key), state.parameters)
            (gradient,) = pullback(weight)
            return (total[0] + loss, jax.tree.map(jnp.add, total[1], gradient)), None

        zero = (jnp.float32(0), jax.tree.map(jnp.zeros_like, state.parameters))
        index = jnp.arange(tokens.shape[0])
        (loss, total), _ = jax.lax.scan(add_micro_batch, zero, (index, tokens))
        return loss / config.tokens_per_step, total

    def train_step(state: TrainState, tokens: Array) -> tuple[TrainState, Metrics]:
        loss, scaled = gradient(state, tokens)
        unscale = 1.0 if state.loss_scale is None else 1 / state.loss_scale.scale
        norm = optax.tree.norm(scaled) * unscale
        finite = jnp.isfinite(norm)
        rate = schedule(state.step.astype(jnp.float32) * config.tokens_per_step)
        parameters, moments = update(
            config.optimizer,
            state.parameters,
            state.moments,
            scaled,
            factor=clip_factor(norm, config.optimizer.clip) * unscale,
            apply=finite,
            learning_rate=rate,
        )
        metrics = {
            "loss": loss,
            "grad_norm": norm,
            "learning_rate": rate,
            "skipped": 1.0 - finite.astype(jnp.float32),
        }
        if state.loss_scale is not None:
            metrics["loss_scale"] = state.loss_scale.scale
        new_state = TrainState(
            parameters=parameters,
            moments=moments,
            step=state.step + 1,
            loss_scale=state.loss_scale and state.loss_scale.adjust(finite),
        )
        return new_state, metrics

    return jax.jit(train_step, donate_argnums=0)


def _keys(config: Config) -> tuple[Any, Any]:
    """Return the keys of the initial weights and of dropout."""
    model_key, dropout_key = jax.random.split(jax.random.key(config.training.seed))
    return model_key, dropout_key


def _summed_loss(
    model: GPT, tokens: Array, config: Config, end_of_document: int, key: Array | None
) -> Array:
    """Sum the loss of a micro-batch `[B, T + 1]` over its positions, in nats."""
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    positions = segment_ids = None
    if config.data.reset_at_document:
        positions, segment_ids = document_segments(inputs, end_of_document)
    hidden = model(
        inputs,
        positions,
        segment_ids,
        key=key,
        dtype=COMPUTE_DTYPES[config.training.precision],
        remat=config.training.remat,
    )
    return cross_entropy(
        hidden,
        model.tokens.table[...],
        targets,
        jnp.ones(targets.shape, jnp.float32, out_sharding=jax.typeof(targets).sharding),
        config.model.vocab_size,
        config.training.z_loss,
    )
