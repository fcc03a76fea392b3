"""Between the order in which a mesh stores the state and that of a checkpoint, which knows none.

A checkpoint holds the layers in their order and the vocabulary's rows as the model has them. Most
meshes store just that. Only where stages hold several runs of layers or unequally many, or where
the vocabulary got rows to divide it, is a state rearranged when it is saved or loaded.
"""

import functools
from collections.abc import Callable
from dataclasses import replace

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec, reshard
from jaxtyping import Array, PyTree

from fugaku_jax.layout.layout import Layout
from fugaku_jax.layout.placement import Placement
from fugaku_jax.training.state import TrainState, abstract_state

_OF_VOCABULARY = ("tokens", "output")


def in_layer_order(layout: Layout, state: TrainState) -> TrainState:
    """Return the state as a checkpoint holds it."""
    with layout.active():
        return state if _is_plain(layout) else _rearranged(layout, state, _to_layers)


def in_storage_order(layout: Layout, state: TrainState) -> TrainState:
    """Undo `in_layer_order`."""
    with layout.active():
        return state if _is_plain(layout) else _rearranged(layout, state, _to_storage)


def parameters_in_storage_order(layout: Layout, parameters: PyTree[Array]) -> PyTree[Array]:
    """Undo `in_layer_order` for the parameters alone."""
    if _is_plain(layout):
        return parameters
    with layout.active():
        return _to_storage(layout, parameters, False)


def saved_types(layout: Layout) -> TrainState:
    """Return the types of a checkpoint's arrays on this mesh."""
    state = abstract_state(layout)
    if _is_plain(layout):
        return state
    with layout.active():
        return jax.eval_shape(lambda state: _rearranged(layout, state, _to_layers), state)


def _is_plain(layout: Layout) -> bool:
    missing = layout.config.model.padded_vocab_size % layout.rules.parts("vocab")
    return layout.stages.is_plain and missing == 0


@functools.partial(jax.jit, static_argnums=(0, 2))
def _to_layers(layout: Layout, tree: PyTree[Array], is_state: bool) -> PyTree[Array]:
    del is_state  # whole on every device anyway
    rows = layout.config.model.padded_vocab_size

    def one(path: tuple, x: Array, placement: Placement) -> Array:
        if path[0].key == "blocks":
            return layout.stages.restore(reshard(x, placement.explicit))
        if path[0].key in _OF_VOCABULARY and x.shape[0] != rows:
            return reshard(x, PartitionSpec())[:rows]
        return x

    return jax.tree_util.tree_map_with_path(one, tree, layout.placements)


@functools.partial(jax.jit, static_argnums=(0, 2))
def _to_storage(layout: Layout, tree: PyTree[Array], is_state: bool) -> PyTree[Array]:
    def one(path: tuple, x: Array, placement: Placement) -> Array:
        if path[0].key == "blocks":
            x = layout.stages.store(x)
        if path[0].key in _OF_VOCABULARY:
            x = jnp.pad(x, ((0, -x.shape[0] % layout.rules.parts("vocab")), (0, 0)))
        return reshard(x, placement.spec(state=is_state))

    return jax.tree_util.tree_map_with_path(one, tree, layout.placements)


def _rearranged(
    layout: Layout,
    state: TrainState,
    all_of: Callable[[Layout, PyTree[Array], bool], PyTree[Array]],
) -> TrainState:
    moments = replace(
        state.moments,
        mean=all_of(layout, state.moments.mean, True),
        square=all_of(layout, state.moments.square, True),
    )
    return replace(state, parameters=all_of(layout, state.parameters, False), moments=moments)
