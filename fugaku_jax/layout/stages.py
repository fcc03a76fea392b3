"""Which layers each pipeline stage holds, and how stacks of layers are stored for it."""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Shaped

from fugaku_jax.config import MeshConfig
from fugaku_jax.errors import InputError


@dataclass(frozen=True, eq=False)
class Stages:
    """Layers in storage order.

    Weights of layers are stored stacked along a leading axis, the slots of a stage side by side:
    `[stage, chunk, layer of the chunk]`, flattened. Chunks with fewer layers than the longest have
    empty slots at their end.
    """

    layers: Int[np.ndarray, "S C N"]
    """The layer in each slot; −1 where it is empty."""

    @property
    def is_plain(self) -> bool:
        """Whether storage order is the order of the layers."""
        flat = self.layers.ravel()
        return np.array_equal(flat, np.arange(len(flat)))

    def store(self, stacked: Shaped[Array, "L ..."]) -> Shaped[Array, "slots ..."]:
        """Bring `[layer, ...]` into storage order; empty slots get zeros."""
        if self.is_plain:
            return stacked
        slots = self.layers.ravel()
        taken = jnp.take(stacked, np.maximum(slots, 0), axis=0)
        empty = (slots < 0).reshape(-1, *[1] * (stacked.ndim - 1))
        return jnp.where(empty, jnp.zeros((), stacked.dtype), taken)

    def restore(self, stored: Shaped[Array, "slots ..."]) -> Shaped[Array, "L ..."]:
        """Undo `store`; the storage axis must not be split."""
        if self.is_plain:
            return stored
        slots = self.layers.ravel()
        return jnp.take(stored, np.argsort(slots)[np.count_nonzero(slots < 0) :], axis=0)


def make_stages(n_layers: int, config: MeshConfig, stages: int) -> Stages:
    """Share the layers out.

    Layers follow each other through the first chunk of every stage, then the second of every
    stage, and so on. If they cannot be shared evenly, and `mesh.layers` does not say how, the first
    chunks get one more, so that the last, which also has the logits, has least. On a single stage
    the chunks follow each other, and are stored as the one run that they are.

    Raises:
        InputError: fewer layers than chunks, or `mesh.layers` does not fit.
    """
    runs = stages * config.chunks
    if runs > n_layers:
        what = "mesh.pipeline" if config.chunks == 1 else "mesh.pipeline x mesh.chunks"
        raise InputError(
            f"{what} is {runs}, but model.n_layers is {n_layers}, and each needs a layer; "
            "give fewer stages."
        )
    counts = config.layers or tuple(
        n_layers // runs + (run < n_layers % runs) for run in range(runs)
    )
    if len(counts) != runs or sum(counts) != n_layers:
        raise InputError(
            f"mesh.layers is {counts}, but it must be {runs} numbers that sum to model.n_layers, "
            f"{n_layers}."
        )
    if stages == 1:
        return Stages(np.arange(n_layers)[None, None])
    layers = np.full((config.chunks, stages, max(counts)), -1)
    first = 0
    for run, count in enumerate(counts):
        layers[run // stages, run % stages, :count] = np.arange(first, first + count)
        first += count
    return Stages(layers.transpose(1, 0, 2))
