"""One optimizer step: a pure function from state and tokens to state and metrics."""

import functools
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, PyTree

from fugaku_jax.layout.layout import Layout, OnLayout
from fugaku_jax.layout.placement import Exchanger, Placement, shard_of, squared_norm
from fugaku_jax.pipeline.executor import pipelined_gradient
from fugaku_jax.pipeline.stack import Exchange
from fugaku_jax.training.gradient import Part, accumulated_gradient, stage_program
from fugaku_jax.training.optimizer import clip_factor, update
from fugaku_jax.training.optimizer import make_schedule as make_learning_rate
from fugaku_jax.training.state import TrainState, run_keys, state_specs

Metrics = dict[str, Float[Array, ""]]
Step = Callable[[TrainState, Array], tuple[TrainState, Metrics]]


def make_train_step(layout: Layout, end_of_document: int) -> OnLayout:
    """Return the step of a run; its first call compiles it.

    The tokens of a batch are `[M, B, T + 1]`: M micro-batches of B samples, whose gradients are
    accumulated in fp32. A step whose gradient is not finite leaves weights and moments as they
    are; its `skipped` is 1.

    Args:
        layout: the run and where it lies.
        end_of_document: the token at which attention starts anew, if the run wants that.

    Returns:
        a jitted function of state and tokens that gives the next state and the step's metrics
        (fp32 scalars); it consumes (donates) the state it is given.
    """
    config, rules, where = layout.config, layout.rules, layout.placements
    learning_rate = make_learning_rate(config)
    # Layers are scattered one by one on the way back, the other weights are not.
    inside = {name: jax.tree.map(lambda _: False, tree) for name, tree in where.items()}
    inside["blocks"] = jax.tree.map(lambda _: True, where["blocks"])
    step_tokens = float(config.tokens_per_step)
    exchanger = Exchanger(config.mesh.collective, rules.local_axis)

    def gradient(state: TrainState, tokens: Array, weight: Array) -> tuple[Array, PyTree[Array]]:
        """Return this device's summed loss, and the gradient where the optimizer's state is."""
        # Made here: an array from outside would carry the type of another mesh.
        _, dropout_key = run_keys(config)
        step_key = jax.random.fold_in(dropout_key, state.step)
        part = Part(layout, end_of_document, step_key, tokens)
        exchange = _layer_exchange(where["blocks"], rules.pipeline, exchanger)
        others = {name: p for name, p in state.parameters.items() if name != "blocks"}
        whole = {
            name: jax.tree.map(lambda x, p: exchanger.gather(x, p.weight), tree, where[name])
            for name, tree in others.items()
        }
        weights = {"blocks": state.parameters["blocks"]} | whole
        if rules.pipeline:
            loss, d_blocks, d_whole = pipelined_gradient(
                stage_program(part, weights, exchange),
                *layout.pipeline,
                weights["blocks"],
                whole,
                layout.stages.layers,
                rules.pipeline,
                weight,
            )
            total = {"blocks": d_blocks} | d_whole
        else:
            loss, total = accumulated_gradient(part, weights, exchange, weight)
        reduced = functools.partial(_reduced, exchanger=exchanger)
        return loss, jax.tree.map(reduced, total, where, inside)

    def train_step(state: TrainState, tokens: Array) -> tuple[TrainState, Metrics]:
        scale = jnp.float32(1) if state.loss_scale is None else state.loss_scale.scale
        loss, scaled = gradient(state, tokens, scale / step_tokens)
        loss = exchanger.sum(loss, rules.manual) / step_tokens
        unscale = 1.0 if state.loss_scale is None else 1 / state.loss_scale.scale
        norm = jnp.sqrt(squared_norm(scaled, where)) * unscale
        finite = jnp.isfinite(norm)
        rate = learning_rate(state.step)
        own = jax.tree.map(lambda x, p: shard_of(x, p.state), state.parameters, where)
        parameters, moments = update(
            config.optimizer,
            own,
            state.moments,
            scaled,
            factor=clip_factor(norm, config.optimizer.clip) * unscale,
            apply=finite,
            learning_rate=rate,
        )
        parameters = jax.tree.map(lambda x, p: exchanger.gather(x, p.state), parameters, where)
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

    return OnLayout(layout, _on_each_device(train_step, layout), donate_argnums=0)


def _on_each_device(step: Step, layout: Layout) -> Step:
    """Let each device do a step with its own part of the state and of the tokens.

    Tensor axes stay explicit inside, that is, in the arrays' types. At its edge, however,
    `shard_map` would gather over them, as its specs may not name them; over Auto axes it does not.
    """
    rules = layout.rules
    if not rules.manual:
        return step
    everywhere = PartitionSpec()
    manual = state_specs(layout, lambda p, state: p.spec(state=state, manual_only=True))
    tensor = tuple(axis for axis in layout.mesh.axis_names if axis not in rules.manual)
    inside: Any = jax.sharding.explicit_axes(
        step,
        axes=tensor,
        in_sharding=(state_specs(layout, lambda p, _: p.explicit), everywhere),
    )
    mapped = jax.shard_map(
        inside,
        in_specs=(manual, PartitionSpec(None, rules.data or None)),
        out_specs=(manual, everywhere),
        axis_names=set(rules.manual),
        check_vma=False,
    )
    whole = state_specs(layout, lambda p, state: p.spec(state=state))
    specs: Any = (whole, everywhere)
    outside: Any = jax.sharding.auto_axes(mapped, axes=tensor, out_sharding=specs)
    return cast(Step, outside)


def _layer_exchange(
    where: PyTree[Placement], pipeline: tuple[str, ...], exchanger: Exchanger
) -> Exchange:
    """Return how a single layer is gathered: its dimensions are one fewer than the stack's."""
    placed = jax.tree.map(
        lambda p: tuple((axis, on - 1) for axis, on in p.weight if axis not in pipeline), where
    )
    if not any(jax.tree.leaves(placed, is_leaf=lambda p: isinstance(p, tuple))):
        return Exchange()
    return Exchange(
        gather=lambda weights: jax.tree.map(exchanger.gather, weights, placed),
        scatter=lambda gradients: jax.tree.map(exchanger.scatter, gradients, placed),
    )


def _reduced(gradient: Array, placement: Placement, scattered: bool, exchanger: Exchanger) -> Array:
    """Sum a gradient over devices and keep the part whose state is here.

    Args:
        scattered: whether it was already summed over the axes that split the weight.
    """
    split = tuple((axis, on) for axis, on in placement.weight if axis in placement.summed)
    if not scattered:
        gradient = exchanger.scatter(gradient, split)
    gradient = exchanger.scatter(gradient, placement.state)
    done = {axis for axis, _ in split + placement.state}
    return exchanger.sum(gradient, tuple(a for a in placement.summed if a not in done))
