"""Arrays that Orbax saves chunk by chunk, as they are made, rather than from memory.

Orbax lets one say how a kind of leaf is saved: a `LeafHandler`, in a registry that its
`PyTreeHandler` is given (its guide "Customization", section "Custom Leaf Handler"; the tree is
wrapped as its own `partial.save` does it). What is ours are the arrays, which TensorStore writes
into the item's OCDBT database; all else is Orbax's: the metadata of tree and checkpoint, and the
folder that appears when it is complete. The leaves are recorded as NumPy arrays, since no device
wrote them, and whoever knows Orbax reads them as such, or onto any sharding. Tested with 0.12.8.
"""

import itertools
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint.experimental.v1 as ocp
import tensorstore as ts
from jaxtyping import PyTree, Shaped

# Orbax 0.12 describes these in its guide, but has no public name for them yet.
from orbax.checkpoint.experimental.v1._src.serialization.registry import BaseLeafHandlerRegistry
from orbax.checkpoint.experimental.v1._src.serialization.types import (
    LeafHandler,
    SerializationContext,
    SerializationParam,
)

from fugaku_jax.training.checksums import CHECKSUM

Index = tuple[slice, ...]
SAVED_AS = "np.ndarray"
"""What Orbax calls the kind of a leaf that it reads back as a NumPy array."""


@dataclass(frozen=True)
class ChunkedArray:
    """An array of which no more than a chunk is made at a time."""

    shape: jax.ShapeDtypeStruct
    """Shape and type of the whole."""
    chunk: tuple[int, ...]
    """Shape of a chunk; those at the end of a dimension may be smaller."""
    part: Callable[[Index], Shaped[np.ndarray, "..."]]
    """Makes a part of it."""


class ChunkedTree(ocp.StatefulCheckpointable):
    """A tree of such arrays, to be saved as an item of a checkpoint.

    Args:
        tree: nested dictionaries of `ChunkedArray`.
    """

    def __init__(self, tree: PyTree[ChunkedArray]) -> None:
        self._tree = tree

    async def save(self, directory: ocp.path.PathAwaitingCreation) -> Awaitable[None]:
        """Have Orbax save the tree."""
        registry = BaseLeafHandlerRegistry()
        registry.add(ChunkedArray, ChunkedArray, _Handler, secondary_typestrs=[SAVED_AS])
        return await ocp.handlers.PyTreeHandler(leaf_handler_registry=registry).save(
            directory, self._tree
        )

    async def load(self, directory: ocp.path.Path) -> Awaitable[None]:
        """Refuse: what is saved is read as any other arrays."""
        raise NotImplementedError(f"{directory} is read as a tree of arrays.")


class _Handler(LeafHandler[ChunkedArray, ChunkedArray]):
    """Writes such arrays where Orbax keeps those of a checkpoint."""

    def __init__(self, context: ocp.Context | None = None) -> None:
        """Orbax hands over the options in force; none of them is of arrays like these."""

    async def serialize(
        self,
        params: Sequence[SerializationParam[ChunkedArray]],
        serialization_context: SerializationContext,
    ) -> Awaitable[None]:
        async def write() -> None:
            folder = await serialization_context.parent_dir.await_creation()
            for param in params:
                array, spec = param.value, array_spec(Path(folder), param.name)
                store = await ts.open(spec | _layout(array), create=True)
                for index in _pieces(array.shape.shape, array.chunk):
                    await store[index].write(array.part(index))

        return write()


def array_spec(folder: Path, name: str) -> dict[str, Any]:
    """Say where TensorStore finds an array in a folder of Orbax's.

    Args:
        folder: the item of the checkpoint.
        name: the keys that lead to it, joined by dots.
    """
    place = {"driver": "ocdbt", "base": f"{folder.as_uri()}/", "path": f"{name}/"}
    return {"driver": "zarr3", "kvstore": place}


def _layout(array: ChunkedArray) -> dict[str, Any]:
    """Say how TensorStore makes an array; checked as those that are trained."""
    return {
        "metadata": {
            "shape": array.shape.shape,
            "data_type": array.shape.dtype.name,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": array.chunk}},
            "codecs": [{"name": "bytes"}, CHECKSUM],
        },
        "store_data_equal_to_fill_value": True,  # Orbax takes what is missing for damage
    }


def _pieces(shape: tuple[int, ...], chunk: tuple[int, ...]) -> Iterator[Index]:
    starts = (range(0, size, step) for size, step in zip(shape, chunk, strict=True))
    for start in itertools.product(*starts):
        stops = (min(a + n, size) for a, n, size in zip(start, chunk, shape, strict=True))
        yield tuple(slice(a, b) for a, b in zip(start, stops, strict=True))
