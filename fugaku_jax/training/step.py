"""One optimizer step: a pure function from state and tokens to state and metrics."""

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, PyTree

from fugaku_jax.layout.layout import Layout, OnLayout
from fugaku_jax.layout.placement import Exchanger, Placement, shard_of, squared_norm
from fugaku_jax.pipeline.executor import pipelined_gradient
from fugaku_jax.pipeline.stack import Exchange
from fugaku_jax.training.gradient import Part, accumulated_gradient, stage_program
from fugaku_jax.training.learning_rate import make_learning_rate
from fugaku_jax.training.optimizer import AdamW, Optimizer, clip_factor, make_optimizer
from fugaku_jax.training.state import TrainState, run_keys, state_specs

Metrics = dict[str, Float[Array, ""]]
Step = Callable[[TrainState, Array], tuple[TrainState, Metrics]]


def make_train_step(
    layout: Layout, end_of_document: int, optimizer: Optimizer | None = None
) -> OnLayout:
    """Return the step of a run; its first call compiles it.

    The tokens of a batch are `[M, B, T + 1]`: M micro-batches of B samples, whose gradients are
    accumulated in fp32. A step whose gradient is not finite leaves weights and moments as they
    are; its `skipped` is 1.

    AdamW updates each device's part of the weights where it lies. Any other optimizer is applied
    to the arrays of the whole mesh, as it may look at whole matrices.

    Args:
        layout: the run and where it lies.
        end_of_document: the token at which attention starts anew, if the run wants that.
        optimizer: what updates the weights; the one that the configuration names if not given.

    Returns:
        a jitted function of state and tokens that gives the next state and the step's metrics
        (fp32 scalars); it consumes (donates) the state it is given.
    """
    config, rules, where = layout.config, layout.rules, layout.placements
    optimizer, learning_rate = optimizer or make_optimizer(layout), make_learning_rate(config)
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

    def reduced(state: TrainState, tokens: Array) -> tuple[PyTree[Array], tuple[Array, Metrics]]:
        """Return the gradient, and what it must be multiplied by and metrics."""
        scale = jnp.float32(1) if state.loss_scale is None else state.loss_scale.scale
        loss, scaled = gradient(state, tokens, scale / step_tokens)
        loss = exchanger.sum(loss, rules.manual) / step_tokens
        unscale = 1.0 if state.loss_scale is None else 1 / state.loss_scale.scale
        norm = jnp.sqrt(squared_norm(scaled, where)) * unscale
        metrics: Metrics = {
            "loss": loss,
            "grad_norm": norm,
            "learning_rate": learning_rate(state.step),
            "skipped": 1.0 - jnp.isfinite(norm).astype(jnp.float32),
        }
        if state.loss_scale is not None:
            metrics["loss_scale"] = state.loss_scale.scale
        return scaled, (clip_factor(norm, config.optimizer.clip) * unscale, metrics)

    def train_step(state: TrainState, tokens: Array) -> tuple[TrainState, Metrics]:
        scaled, (factor, metrics) = reduced(state, tokens)
        apply, rate = metrics["skipped"] == 0, metrics["learning_rate"]
        own = jax.tree.map(lambda x, p: shard_of(x, p.state), state.parameters, where)
        own, moments = optimizer.apply(own, state.moments, scaled, factor, apply, rate)
        parameters = jax.tree.map(lambda x, p: exchanger.gather(x, p.state), own, where)
        return _advanced(state, parameters, moments, apply), metrics

    def train_step_of_whole_arrays(state: TrainState, tokens: Array) -> tuple[TrainState, Metrics]:
        scaled, (factor, metrics) = on_devices(replace(state, moments=None), tokens)
        apply, rate = metrics["skipped"] == 0, metrics["learning_rate"]
        parameters, moments = optimizer.apply(
            state.parameters, state.moments, scaled, factor, apply, rate
        )
        return _advanced(state, parameters, moments, apply), metrics

    if isinstance(optimizer, AdamW):
        moments = optimizer.placements(where)
        return OnLayout(layout, _on_each_device(train_step, layout, moments), donate_argnums=0)
    on_devices = _on_each_device(reduced, layout, None)
    return OnLayout(layout, train_step_of_whole_arrays, donate_argnums=0)


def _advanced(
    state: TrainState, parameters: PyTree[Array], moments: Any, applied: Array
) -> TrainState:
    return TrainState(
        parameters=parameters,
        moments=moments,
        step=state.step + 1,
        loss_scale=state.loss_scale and state.loss_scale.adjust(applied),
    )


def _on_each_device(
    function: Callable[[TrainState, Array], tuple[Any, Any]],
    layout: Layout,
    moments: PyTree[Placement],
) -> Callable[[TrainState, Array], tuple[Any, Any]]:
    """Let each device do its part with its own part of the state and of the tokens.

    Tensor axes stay explicit inside, that is, in the arrays' types. At its edge, however,
    `shard_map` would gather over them, as its specs may not name them; over Auto axes it does not.

    Args:
        function: of state and tokens; gives the next state or, where `moments` are None, gradients,
            and figures.
        layout: of the state.
        moments: placements of those in the state.
    """
    rules = layout.rules
    if not rules.manual:
        return function
    everywhere: Any = PartitionSpec()
    specs = functools.partial(state_specs, layout, moments)

    def results(spec: Callable[[Placement, bool], PartitionSpec]) -> Any:
        gradients = jax.tree.map(lambda p: spec(p, True), layout.placements)
        return (gradients if moments is None else specs(spec)), everywhere

    def manual(p: Placement, state: bool) -> PartitionSpec:
        return p.spec(state=state, manual_only=True)

    tensor = tuple(axis for axis in layout.mesh.axis_names if axis not in rules.manual)
    inside: Any = jax.sharding.explicit_axes(
        function, axes=tensor, in_sharding=(specs(lambda p, _: p.explicit), everywhere)
    )
    mapped = jax.shard_map(
        inside,
        in_specs=(specs(manual), PartitionSpec(None, rules.data or None)),
        out_specs=results(manual),
        axis_names=set(rules.manual),
        check_vma=False,
    )
    whole = results(lambda p, state: p.spec(state=state))
    outside: Any = jax.sharding.auto_axes(mapped, axes=tensor, out_sharding=whole)
    return outside


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
