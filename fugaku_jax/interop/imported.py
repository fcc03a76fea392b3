"""A model of another project's, read part by part and put where ours has its weights."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, PyTree, Shaped

from fugaku_jax.config import Config, ModelConfig, OptimizerConfig, TrainingConfig
from fugaku_jax.data.tokenizer import Tokenizer
from fugaku_jax.interop.chunked_arrays import Index
from fugaku_jax.interop.hf_weights import Tensor, tensors
from fugaku_jax.layout.layout import Layout
from fugaku_jax.layout.placement import Placement
from fugaku_jax.training.state import abstract_parameters
from fugaku_jax.training.weights_of_checkpoint import placed


@dataclass(frozen=True)
class Imported:
    """A model that was opened: its shape is known and all its tensors are there."""

    model: ModelConfig
    """Its shape."""
    read: Callable[[Tensor], Shaped[np.ndarray, "..."]]
    """Gives a tensor as Hugging Face has it, mapped into memory rather than loaded."""
    tokenizer: Tokenizer | None
    """Its tokenizer, if it came with one."""
    origin: dict[str, Any]
    """What identifies it, as JSON can hold it: `format`, `path` and the `sha256` of its headers."""
    template: str | None = None
    """How a dialogue is told to it, if that came with it."""

    @functools.cached_property
    def _pieces(self) -> dict[tuple[tuple[str, ...], int | None], list[Tensor]]:
        pieces: dict[tuple[tuple[str, ...], int | None], list[Tensor]] = {}
        for tensor in tensors(self.model):
            pieces.setdefault((tensor.path, tensor.layer), []).append(tensor)
        return pieces

    def part(
        self,
        path: tuple[str, ...],
        shape: tuple[int, ...],
        index: Index,
        dtype: DTypeLike,
        layers: Sequence[int],
    ) -> Shaped[np.ndarray, "..."]:
        """Return a part of one of our parameters, and read no more than that.

        Args:
            path: of the parameter.
            shape: of the whole parameter; rows behind the vocabulary's are padding, and 0.
            index: the part.
            dtype: type of the result.
            layers: which layer stands where, for a stack of layers; where one is below 0, none.
        """
        spans = [range(size)[cut] for size, cut in zip(shape, index, strict=True)]
        part = np.zeros([len(span) for span in spans], dtype)
        rest = tuple(slice(span.start, span.stop) for span in spans[1:])
        if path[0] != "blocks":
            (tensor,) = self._pieces[path, None]
            rows = slice(spans[0].start, min(spans[0].stop, tensor.shape[0]))
            found = tensor.shaped(self.read(tensor), (tensor.shape[0], *shape[1:]))
            found = found[(rows, *rest)]
            part[: len(found)] = found
            return part
        for into, slot in zip(part, spans[0], strict=True):
            for tensor in self._pieces.get((path, layers[slot]), ()):
                if tensor.part is None:
                    into[...] = tensor.shaped(self.read(tensor), shape[1:])[rest]
                elif tensor.part in spans[2]:
                    found = tensor.shaped(self.read(tensor), (shape[1], *shape[3:]))
                    into[:, tensor.part - spans[2].start] = found[(rest[0], *rest[2:])]
        return part


def place_parameters(
    source: Imported, layout: Layout, dtype: DTypeLike
) -> PyTree[Shaped[Array, "..."]]:
    """Return the weights where a run has them, in the order in which it stores them.

    Every process reads what its own devices need.

    Args:
        source: where they come from.
        layout: of the run; its model is the source's, but for what does not shape the weights.
        dtype: type that they are cast to.
    """
    layers = layout.stages.layers.ravel().tolist()
    stages = layout.rules.parts("stage")

    def one(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct, placement: Placement) -> Array:
        names = tuple(key.key for key in path)
        whole = leaf.shape
        if placement.ends:
            whole = (leaf.shape[0] // stages, *leaf.shape[1:])

        def part(index: Any) -> Shaped[np.ndarray, "..."]:
            if placement.ends:
                rows = range(*index[0].indices(leaf.shape[0]))
                place, first = divmod(rows.start, whole[0])
                index = (slice(first, first + len(rows)), *index[1:])
                if 0 < place < stages - 1:
                    spans = (range(*each.indices(n)) for each, n in zip(index, whole, strict=True))
                    return np.zeros([len(span) for span in spans], dtype)
            return source.part(names, whole, index, dtype, layers)

        return jax.make_array_from_callback(
            leaf.shape, placed(layout, leaf).sharding, part, dtype=dtype
        )

    return jax.tree_util.tree_map_with_path(one, abstract_parameters(layout), layout.placements)


def default_run(model: ModelConfig) -> Config:
    """Return a run of a model that was not trained here: everything but its shape is by default."""
    return Config(
        model=model,
        optimizer=OptimizerConfig(learning_rate=1e-4),
        training=TrainingConfig(steps=1, batch_size=1),
    )
