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

from fugaku_jax.config import Config
from fugaku_jax.layout.placement import Placement
from fugaku_jax.layout.rules import parts
from fugaku_jax.training.state import TrainState, placements, stages_of

_OF_VOCABULARY = ("tokens", "output")


def in_layer_order(config: Config, state: TrainState) -> TrainState:
    """Return the state as a checkpoint holds it."""
    return state if _is_plain(config) else _rearranged(config, state, _to_layers)


def in_storage_order(config: Config, state: TrainState) -> TrainState:
    """Undo `in_layer_order`."""
    return state if _is_plain(config) else _rearranged(config, state, _to_storage)


def parameters_in_storage_order(config: Config, parameters: PyTree[Array]) -> PyTree[Array]:
    """Undo `in_layer_order` for the parameters alone."""
    return parameters if _is_plain(config) else _to_storage(config, parameters, False)


def _is_plain(config: Config) -> bool:
    return stages_of(config).is_plain and config.model.padded_vocab_size % parts("vocab") == 0


@functools.partial(jax.jit, static_argnums=(0, 2))
def _to_layers(config: Config, tree: PyTree[Array], is_state: bool) -> PyTree[Array]:
    del is_state  # whole on every device anyway
    stages, rows = stages_of(config), config.model.padded_vocab_size

    def one(path: tuple, x: Array, placement: Placement) -> Array:
        if path[0].key == "blocks":
            return stages.restore(reshard(x, placement.explicit))
        if path[0].key in _OF_VOCABULARY and x.shape[0] != rows:
            return reshard(x, PartitionSpec())[:rows]
        return x

    return jax.tree_util.tree_map_with_path(one, tree, placements(config))


@functools.partial(jax.jit, static_argnums=(0, 2))
def _to_storage(config: Config, tree: PyTree[Array], is_state: bool) -> PyTree[Array]:
    stages = stages_of(config)

    def one(path: tuple, x: Array, placement: Placement) -> Array:
        if path[0].key == "blocks":
            x = stages.store(x)
        if path[0].key in _OF_VOCABULARY:
            x = jnp.pad(x, ((0, -x.shape[0] % parts("vocab")), (0, 0)))
        return reshard(x, placement.spec(state=is_state))

    return jax.tree_util.tree_map_with_path(one, tree, placements(config))


def _rearranged(
    config: Config,
    state: TrainState,
    all_of: Callable[[Config, PyTree[Array], bool], PyTree[Array]],
) -> TrainState:
    moments = replace(
        state.moments,
        mean=all_of(config, state.moments.mean, True),
        square=all_of(config, state.moments.square, True),
    )
    return replace(state, parameters=all_of(config, state.parameters, False), moments=moments)
