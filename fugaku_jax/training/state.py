"""The state of a run: weights, moments and counters, and where each lies on the mesh."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int, PyTree

from fugaku_jax.config import Config, TrainingConfig
from fugaku_jax.layout.ends import at_ends
from fugaku_jax.layout.layout import Layout
from fugaku_jax.layout.placement import Placement
from fugaku_jax.models.gpt import GPT
from fugaku_jax.models.lora import init_adapters
from fugaku_jax.training.optimizer import Optimizer, make_optimizer
from fugaku_jax.training.precision import LossScale, initial_loss_scale
from fugaku_jax.training.spikes import RecentSteps, no_recent_steps


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """Everything that a step changes."""

    parameters: PyTree[Float[Array, "..."]]
    """Master weights, fp32, as nested dictionaries; layers in the storage order of `Stages`, others
    at the ends of a pipeline (`layout.ends`). With LoRA the adapters, which alone are learned."""
    moments: Any
    """What the optimizer remembers: `Moments` of AdamW, else a transformation's state."""
    step: Int[Array, ""]
    """Steps taken; it is also the position in the data and the seed of dropout."""
    loss_scale: LossScale | None
    """Dynamic loss scale; None but in fp16."""
    recent: RecentSteps | None = None
    """Steps that a spike stands out from; None unless `training.spike_deviations` is given."""
    frozen: PyTree[Float[Array, "..."]] | None = None
    """With LoRA the weights, which no step changes; else None."""


def init_state(layout: Layout, optimizer: Optimizer | None = None) -> TrainState:
    """Make the state that a run starts from, each array already where it belongs.

    Args:
        layout: the run on its mesh.
        optimizer: what updates it; the one that its configuration names if not given.

    Raises:
        InputError: the configuration names none.
    """
    with layout.active():
        return _init_state(layout, optimizer or make_optimizer(layout))


def fresh_state(
    layout: Layout, parameters: PyTree[Float[Array, "..."]], optimizer: Optimizer | None = None
) -> TrainState:
    """Make the state before the first step, with these weights, each where it belongs.

    Further arguments and errors are those of `init_state`.
    """
    with layout.active():
        return _fresh_state(layout, optimizer or make_optimizer(layout), parameters)


def abstract_state(layout: Layout, optimizer: Optimizer | None = None) -> TrainState:
    """Return the shapes and shardings of a run's state, allocating nothing.

    Arguments and errors are those of `init_state`.
    """
    with layout.active():
        init = functools.partial(_init_state, layout, optimizer or make_optimizer(layout))
        return jax.eval_shape(init)


def abstract_parameters(layout: Layout) -> PyTree[jax.ShapeDtypeStruct]:
    """Return the shapes and shardings of a run's parameters, whatever its optimizer is."""
    with layout.active():
        return jax.eval_shape(functools.partial(_init_parameters, layout))


def abstract_adapters(layout: Layout) -> PyTree[jax.ShapeDtypeStruct]:
    """Return the shapes and shardings of a run's adapters, whatever its optimizer is."""
    with layout.active():
        return jax.eval_shape(functools.partial(_init_adapters, layout))


def state_specs(
    layout: Layout, moments: PyTree[Placement], spec: Callable[[Placement, bool], PartitionSpec]
) -> Any:
    """Return a state with specs in the place of its arrays.

    Args:
        layout: of the state.
        moments: placements of what the optimizer remembers.
        spec: gives that of a weight (false) or of its optimizer state (true).
    """
    everywhere: Any = PartitionSpec()
    weights = jax.tree.map(lambda p: spec(p, False), layout.placements)
    return TrainState(
        parameters=jax.tree.map(lambda p: spec(p, False), layout.learned_placements),
        moments=jax.tree.map(lambda p: spec(p, True), moments),
        step=everywhere,
        **jax.tree.map(lambda _: everywhere, first_memory(layout.config.training)),
        frozen=weights if layout.is_lora else None,
    )


def first_memory(training: TrainingConfig) -> dict[str, Any]:
    """Return what a state remembers of earlier steps before the first, by the names of its fields.

    A checkpoint that lacks one of them can be gone on from: it was not asked for then.
    """
    return {
        "loss_scale": initial_loss_scale(training.precision),
        "recent": no_recent_steps() if training.spike_deviations else None,
    }


def run_keys(config: Config) -> tuple[Any, Any]:
    """Return the keys of the initial weights and of dropout."""
    model_key, dropout_key = jax.random.split(jax.random.key(config.training.seed))
    return model_key, dropout_key


@functools.partial(jax.jit, static_argnums=(0, 1))
def _init_state(layout: Layout, optimizer: Optimizer) -> TrainState:
    return _fresh_state(layout, optimizer, _init_parameters(layout))


def _init_parameters(layout: Layout) -> PyTree[Float[Array, "..."]]:
    model_key, _ = run_keys(layout.config)
    model = GPT(layout.config.model, model_key, layout.rules)
    parameters = nnx.to_pure_dict(nnx.state(model))
    return _stored(layout, parameters, layout.placements)


def _init_adapters(layout: Layout) -> PyTree[Float[Array, "..."]]:
    key = jax.random.fold_in(run_keys(layout.config)[0], 1)
    adapters = init_adapters(layout.adapter_shapes, key)
    return _stored(layout, adapters, layout.adapter_placements)


def _stored(
    layout: Layout, tree: PyTree[Float[Array, "..."]], where: PyTree[Placement]
) -> PyTree[Float[Array, "..."]]:
    """Bring layers from their order to where a run has them."""
    tree = tree | {"blocks": jax.tree.map(layout.stages.store, tree["blocks"])}
    return jax.tree.map(lambda x, p: at_ends(x, p, state=False), tree, where)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _fresh_state(
    layout: Layout, optimizer: Optimizer, weights: PyTree[Float[Array, "..."]]
) -> TrainState:
    parameters = _init_adapters(layout) if layout.is_lora else weights
    places = optimizer.placements(layout.learned_placements)
    init: Any = jax.sharding.auto_axes(
        optimizer.init,
        axes=layout.mesh.axis_names,
        out_sharding=jax.tree.map(lambda p: p.spec(state=True), places),
    )
    return TrainState(
        parameters=parameters,
        moments=init(parameters),
        step=jnp.int32(0),
        **first_memory(layout.config.training),
        frozen=weights if layout.is_lora else None,
    )
