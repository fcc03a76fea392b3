"""One optimizer step: a pure function from state and batch to state and metrics."""

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, PyTree

from fugaku_jax.config import Config
from fugaku_jax.data.batch import Batch
from fugaku_jax.layout.layout import Layout, OnLayout
from fugaku_jax.layout.placement import Collectives, Placement, Way, shard_of, squared_norm
from fugaku_jax.models.lora import adapted
from fugaku_jax.pipeline.stack import Fsdp
from fugaku_jax.training.gradient import Found, accumulated_gradient, pipelined_gradient
from fugaku_jax.training.learning_rate import make_learning_rate
from fugaku_jax.training.local_batch import LocalBatch
from fugaku_jax.training.optimizer import AdamW, Optimizer, clip_factor, make_optimizer
from fugaku_jax.training.preference import pair_count
from fugaku_jax.training.reduced_gradients import reduced_gradients
from fugaku_jax.training.state import TrainState, run_keys, state_specs

Metrics = dict[str, Float[Array, "..."]]
Step = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]
_Part = Callable[[TrainState, Batch], tuple[Any, Any, Array | None]]
"""What a device does of a step: gives a state or gradients, figures, and losses of positions."""


def make_train_step(
    layout: Layout, keep_losses: bool = False, optimizer: Optimizer | None = None
) -> OnLayout:
    """Return the step of a run; its first call compiles it.

    The arrays of a `Batch` are `[M, B, ...]`: M micro-batches of B rows, whose gradients are
    accumulated in fp32. A step whose loss or gradient is not finite, or a spike, leaves weights and
    moments as they are; its `skipped` is 1.

    AdamW updates each device's part of the weights where it lies. Any other optimizer is applied
    to the arrays of the whole mesh, as it may look at whole matrices.

    Args:
        layout: the run and where it lies.
        keep_losses: whether the loss of each position, before it is weighted, is among the
            metrics: `losses`, `[M, B, T]`.
        optimizer: what updates the weights; the one that the configuration names if not given.

    Returns:
        a jitted function of state and batch that gives the next state and the step's metrics
        (fp32 scalars but for `losses`); it consumes (donates) the state it is given.
    """
    config, rules, where = layout.config, layout.rules, layout.learned_placements
    optimizer, learning_rate = optimizer or make_optimizer(layout), make_learning_rate(config)
    collectives, overlaps = _collectives(layout), False
    find_gradient = pipelined_gradient if rules.pipeline else accumulated_gradient
    if overlapped := _overlapped_gradient(layout, collectives):
        find_gradient, overlaps = overlapped, True

    def gradient(state: TrainState, batch: Batch, weight: Array) -> Found:
        """Return this device's losses, and the gradient where the optimizer's state is."""
        # Made here: an array from outside would carry the type of another mesh.
        _, dropout_key = run_keys(config)
        step_key = jax.random.fold_in(dropout_key, state.step)
        local = LocalBatch(layout, batch, step_key, keep_losses)
        weights, frozen = (
            tree and _outside_of_layers_whole(tree, places, collectives)
            for tree, places in ((state.parameters, where), (state.frozen, layout.placements))
        )
        fsdp = _fsdp_of_layers(layout, collectives)
        loss, losses, total = find_gradient(layout, local, weights, fsdp, weight, frozen)
        if rules.manual:
            total = reduced_gradients(total, where, collectives, rules.pipeline, overlaps)
        return loss, losses, total

    def reduced(
        state: TrainState, batch: Batch
    ) -> tuple[PyTree[Array], tuple[Array, Metrics], Array | None]:
        """Return the gradient, what it must be multiplied by and metrics, and losses."""
        scale = jnp.float32(1) if state.loss_scale is None else state.loss_scale.scale
        total = _counted(layout, batch, collectives)
        loss, losses, scaled = gradient(state, batch, scale / total)
        loss = collectives.sum(loss, rules.manual) / total
        losses = None if losses is None else collectives.sum(losses, rules.pipeline)
        unscale = 1.0 if state.loss_scale is None else 1 / state.loss_scale.scale
        norm = jnp.sqrt(squared_norm(scaled, where)) * unscale
        metrics = _metrics(config, state, loss, norm) | {"learning_rate": learning_rate(state.step)}
        if batch.reference is not None and losses is not None:  # they are the margins of pairs
            sums = {"margin": losses.sum(), "accuracy": (losses > 0).sum().astype(jnp.float32)}
            metrics |= {name: collectives.sum(x, rules.data) / total for name, x in sums.items()}
            losses = None
        return scaled, (clip_factor(norm, config.optimizer.clip) * unscale, metrics), losses

    def on_each_device(state: TrainState, batch: Batch) -> tuple[Any, Metrics, Array | None]:
        scaled, (factor, metrics), losses = reduced(state, batch)
        own = jax.tree.map(lambda x, p: shard_of(x, p.state), state.parameters, where)
        new = _updated(optimizer, state, own, scaled, factor, metrics)
        parameters = jax.tree.map(
            lambda x, p: collectives.gather(x, p.state), new.parameters, where
        )
        return replace(new, parameters=parameters), metrics, losses

    def on_the_mesh(state: TrainState, batch: Batch) -> tuple[Any, Metrics, Array | None]:
        gradients = _on_each_device(reduced, layout, None)
        scaled, (factor, metrics), losses = gradients(replace(state, moments=None), batch)
        new = _updated(optimizer, state, state.parameters, scaled, factor, metrics)
        return new, metrics, losses

    step: _Part = on_the_mesh
    if isinstance(optimizer, AdamW):
        step = _on_each_device(on_each_device, layout, optimizer.placements(where))

    def whole_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        frozen = state.frozen
        state, metrics, losses = step(state, batch)
        state = replace(state, frozen=frozen)
        return state, metrics if losses is None else metrics | {"losses": losses}

    return OnLayout(layout, whole_step, donate_argnums=0)


def _collectives(layout: Layout) -> Collectives:
    if layout.config.mesh.collective != "torus" or layout.mesh.size == 1:
        return Collectives()
    from fugaku_jax.layout.neighbours import connected  # which no other step has to read

    return connected(layout.mesh)


def _overlapped_gradient(layout: Layout, collectives: Collectives) -> Callable | None:
    """Return how gradients are found while their sums travel; None if sums come afterwards."""
    if layout.mesh.size == 1:
        return None
    from fugaku_jax.training.overlapped_gradient import overlap_of_layers, overlapped_gradient

    overlap = overlap_of_layers(layout, collectives)
    return functools.partial(overlapped_gradient, overlap) if overlap else None


def _counted(layout: Layout, batch: Batch, collectives: Collectives) -> Any:
    """Return what a step's loss is the mean of: tokens, those that count, or pairs of answers."""
    config, axes = layout.config, layout.rules.data
    if batch.weights is None:
        return float(config.tokens_per_step)
    total = batch.weights.sum()
    if batch.reference is not None:
        total = jax.vmap(pair_count)(batch.weights, batch.segments).sum()
    total = collectives.sum(total, axes)
    return jnp.where(total == 0, 1, total)  # where nothing counts there is no loss, no gradient


def _metrics(
    config: Config, state: TrainState, loss: Float[Array, ""], norm: Float[Array, ""]
) -> Metrics:
    """Return the figures of a step: among them whether it is `skipped`, and is so for a `spike`."""
    metrics = {"loss": loss, "grad_norm": norm}
    skipped = ~(jnp.isfinite(loss) & jnp.isfinite(norm))
    if state.recent is not None:
        spike = ~skipped & state.recent.has_spike(loss, norm, config.training.spike_deviations)
        metrics["spike"], skipped = spike.astype(jnp.float32), skipped | spike
    if state.loss_scale is not None:
        metrics["loss_scale"] = state.loss_scale.scale
    return metrics | {"skipped": skipped.astype(jnp.float32)}


def _updated(
    optimizer: Optimizer,
    state: TrainState,
    own: PyTree[Array],
    gradients: PyTree[Array],
    factor: Array,
    metrics: Metrics,
) -> TrainState:
    """Apply gradients to a state, whose parameters are given as the optimizer takes them."""
    apply, rate = metrics["skipped"] == 0, metrics["learning_rate"]
    finite = jnp.isfinite(metrics["grad_norm"])
    parameters, moments = optimizer.apply(own, state.moments, gradients, factor, apply, rate)
    return TrainState(
        parameters=parameters,
        moments=moments,
        step=state.step + 1,
        loss_scale=state.loss_scale and state.loss_scale.adjust(finite),
        recent=state.recent and state.recent.add(metrics["loss"], metrics["grad_norm"], apply),
    )


def _on_each_device(function: _Part, layout: Layout, moments: PyTree[Placement]) -> _Part:
    """Let each device do its part with its own part of the state and of the batch.

    Tensor axes stay explicit inside, that is, in the arrays' types. At its edge, however,
    `shard_map` would gather over them, as its specs may not name them; over Auto axes it does not.

    Args:
        function: what each does; it gives gradients where the state has no moments.
        layout: of the state.
        moments: placements of those in the state, or None.
    """
    rules = layout.rules
    if not rules.manual:
        return function
    everywhere: Any = PartitionSpec()
    by_position: Any = PartitionSpec(None, rules.data or None, rules.context or None)
    specs = functools.partial(state_specs, layout, moments)

    def results(spec: Callable[[Placement, bool], PartitionSpec]) -> Any:
        if moments is None:
            found = jax.tree.map(lambda p: spec(p, True), layout.learned_placements)
        else:
            found = replace(specs(spec), frozen=None)
        return found, everywhere, by_position

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


def _outside_of_layers_whole(
    tree: PyTree[Array], where: PyTree[Placement], collectives: Collectives
) -> PyTree[Array]:
    """Bring together the weights that no layer gathers when it is its turn."""
    return {
        name: part
        if name == "blocks"
        else jax.tree.map(lambda x, p: collectives.gather(x, p.divided), part, where[name])
        for name, part in tree.items()
    }


def _fsdp_of_layers(layout: Layout, collectives: Collectives) -> Fsdp:
    """Return how a single layer's weights come together, with its adapters if these are learned."""
    pipeline = layout.rules.pipeline
    weights = _layer_fsdp(layout.placements["blocks"], pipeline, collectives)
    if not layout.is_lora:
        return weights
    own = _layer_fsdp(layout.learned_placements["blocks"], pipeline, collectives)
    return adapted(layout.config, weights, own)


def _layer_fsdp(
    where: PyTree[Placement], pipeline: tuple[str, ...], collectives: Collectives
) -> Fsdp:
    """Return how a single layer is gathered: its dimensions are one fewer than the stack's."""
    placed = jax.tree.map(
        lambda p: tuple((axis, on - 1) for axis, on in p.weight if axis not in pipeline), where
    )
    if not any(jax.tree.leaves(placed, is_leaf=lambda p: isinstance(p, tuple))):
        return Fsdp()
    return Fsdp(
        gather=lambda weights: jax.tree.map(collectives.gather, weights, placed),
        scatter=lambda gradients, _: jax.tree.map(collectives.scatter, gradients, placed),
        overlap=collectives.overlap(
            jax.tree.map(Way, placed, is_leaf=lambda pairs: isinstance(pairs, tuple))
        ),
    )
