"""Between the order in which a mesh stores the state and that of a checkpoint, which knows none.

A checkpoint holds the layers in their order and the vocabulary's rows as the model has them. Most
meshes store just that. Only in a pipeline, whose ends hold what is outside of the layers, or where
the vocabulary got rows to divide it, is a state rearranged when it is saved or loaded.
"""

import functools
from dataclasses import replace
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec, reshard
from jaxtyping import Array, PyTree, Shaped

from fugaku_jax.layout.ends import at_ends, whole_of_ends
from fugaku_jax.layout.layout import Layout
from fugaku_jax.layout.placement import Placement
from fugaku_jax.training.adamw import Moments
from fugaku_jax.training.layer_by_layer import OF_VOCABULARY
from fugaku_jax.training.optimizer import Optimizer
from fugaku_jax.training.state import (
    TrainState,
    abstract_adapters,
    abstract_parameters,
    abstract_state,
)


def in_layer_order(layout: Layout, state: TrainState, last: TrainState | None = None) -> TrainState:
    """Return a copy of the state as a checkpoint holds it: without what is frozen.

    Args:
        layout: the run on its mesh.
        state: to be copied.
        last: what this has returned before, which is given away: its memory holds the new copy.
    """
    with layout.active():
        return _copied_to_layers(layout, last, replace(state, frozen=None))


def frozen_in_layer_order(layout: Layout, state: TrainState) -> PyTree[Shaped[Array, "..."]]:
    """Return what is frozen as a checkpoint holds it; it is copied only if it lies otherwise."""
    if _is_plain(layout):
        return state.frozen
    with layout.active():
        return jax.jit(functools.partial(_layers, layout))(state.frozen)


def in_storage_order(layout: Layout, state: TrainState, optimizer: Optimizer) -> TrainState:
    """Undo `in_layer_order`."""
    with layout.active():
        return state if _is_plain(layout) else _to_storage(layout, optimizer, state)


def parameters_in_storage_order(
    layout: Layout, parameters: PyTree[Shaped[Array, "..."]], *, are_adapters: bool = False
) -> PyTree[Shaped[Array, "..."]]:
    """Undo `in_layer_order` for the weights alone, or for the adapters alone."""
    if _is_plain(layout):
        return parameters
    with layout.active():
        return _parameters_to_storage(layout, parameters, are_adapters)


def saved_types(layout: Layout, optimizer: Optimizer) -> TrainState:
    """Return the types of a checkpoint's arrays on this mesh."""
    state = replace(abstract_state(layout, optimizer), frozen=None)
    if _is_plain(layout):
        return state
    with layout.active():
        return jax.eval_shape(functools.partial(_to_layers, layout), state)


def saved_parameter_types(layout: Layout) -> PyTree[jax.ShapeDtypeStruct]:
    """Return the types of a checkpoint's weights on this mesh."""
    parameters = abstract_parameters(layout)
    with layout.active():
        return jax.eval_shape(functools.partial(_layers, layout, is_state=False), parameters)


def saved_adapter_types(layout: Layout) -> PyTree[jax.ShapeDtypeStruct]:
    """Return the types of a checkpoint's adapters on this mesh."""
    adapters = abstract_adapters(layout)
    with layout.active():
        return jax.eval_shape(functools.partial(_layers, layout, is_state=False), adapters)


def _is_plain(layout: Layout) -> bool:
    missing = layout.config.model.padded_vocab_size % layout.rules.parts("vocab")
    return not layout.rules.pipeline and layout.stages.is_plain and missing == 0


# XLA puts what it returns where the arrays given away are, though nothing reads these.
@functools.partial(jax.jit, static_argnums=0, donate_argnums=1, keep_unused=True)
def _copied_to_layers(
    layout: Layout,
    last: TrainState | None,  # noqa: ARG001
    state: TrainState,
) -> TrainState:
    return jax.tree.map(jnp.copy, _to_layers(layout, state))


def _to_layers(layout: Layout, state: TrainState) -> TrainState:
    if _is_plain(layout):
        return state
    moments, layers = state.moments, functools.partial(_layers, layout, is_state=True)
    if isinstance(moments, Moments):
        moments = replace(moments, mean=layers(moments.mean), square=layers(moments.square))
    else:
        moments = layers(moments)
    parameters = _layers(layout, state.parameters, is_state=False)
    return replace(state, parameters=parameters, moments=moments)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _to_storage(layout: Layout, optimizer: Optimizer, state: TrainState) -> TrainState:
    store = functools.partial(_storage, layout, is_state=True)
    moments, where = state.moments, cast(Any, optimizer.placements(layout.learned_placements))
    if isinstance(moments, Moments):
        mean, square = store(moments.mean, where.mean), store(moments.square, where.square)
        moments = replace(moments, mean=mean, square=square)
    else:
        moments = store(moments, where)
    parameters = _storage(layout, state.parameters, layout.learned_placements, is_state=False)
    return replace(state, parameters=parameters, moments=moments)


@functools.partial(jax.jit, static_argnums=(0, 2))
def _parameters_to_storage(
    layout: Layout, parameters: PyTree[Shaped[Array, "..."]], are_adapters: bool
) -> PyTree[Shaped[Array, "..."]]:
    where = layout.adapter_placements if are_adapters else layout.placements
    return _storage(layout, parameters, where, is_state=False)


def _layers(
    layout: Layout, tree: PyTree[Shaped[Array, "..."]], *, is_state: bool
) -> PyTree[Shaped[Array, "..."]]:
    rows = layout.config.model.padded_vocab_size
    # What another optimizer than AdamW remembers has other paths; it is at no ends.
    where = dict(jax.tree.leaves_with_path(layout.placements))

    def one(path: tuple, x: Array) -> Array:
        if path[0].key == "blocks" and layout.stages.is_plain:
            return x
        if path[0].key == "blocks":
            return layout.stages.restore(reshard(x, PartitionSpec(None, *_spec(x)[1:])))
        if placement := where.get(path):
            x = whole_of_ends(x, placement, state=is_state)
        if path[0].key in OF_VOCABULARY and len(x) != rows:
            return reshard(x, PartitionSpec())[:rows]
        return x

    return jax.tree_util.tree_map_with_path(one, tree)


def _storage(
    layout: Layout, tree: PyTree[Shaped[Array, "..."]], where: PyTree[Placement], *, is_state: bool
) -> PyTree[Shaped[Array, "..."]]:
    def one(path: tuple, x: Array, placement: Placement) -> Array:
        if path[0].key == "blocks":
            x = layout.stages.store(x)
        if path[0].key in OF_VOCABULARY:
            x = jnp.pad(x, ((0, -x.shape[0] % layout.rules.parts("vocab")), (0, 0)))
        return at_ends(x, placement, state=is_state)

    return jax.tree_util.tree_map_with_path(one, tree, where)


def _spec(x: Array) -> PartitionSpec:
    return jax.typeof(x).sharding.spec
