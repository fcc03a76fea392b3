"""How Orbax writes a checkpoint: with checksums, in chunks of a layer, beside the training."""

from collections.abc import Callable, Collection, Sequence
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import orbax.checkpoint.experimental.v1 as ocp

from fugaku_jax.run.checkpoint_folder import LiteralPath
from fugaku_jax.training.checkpoint_reading import IDENTITY
from fugaku_jax.training.checksums import check_chunks
from fugaku_jax.training.orbax_meetings import meet_by_service

CHUNK_BYTES = 1 << 28
"""Most bytes of an array that can only be read together."""
FILE_BYTES = 1 << 28
"""Of a file, about. What goes into one lies in memory until it is written, a second time."""
A_WEEK = 7 * 24 * 3600
"""In seconds."""


def saving_options() -> ocp.Context:
    """Have checksums written, and large arrays cut, for a layer to be read without the others."""
    check_chunks()
    meet_by_service()
    options = ocp.options.ArrayOptions.Saving.StorageOptions

    def cut(key: tuple[Any, ...], value: Any) -> Any:
        if np.ndim(value) == 0:
            return None
        stacked = "blocks" in jax.tree_util.keystr(key)
        return options(chunk_byte_size=CHUNK_BYTES, shard_axes=(0,) if stacked else None)

    context = ocp.Context()
    context.array.saving.scoped_storage_options_creator = cut
    # It would make them smaller by 8 %, for twice the work of the cores that train meanwhile.
    context.array.saving.use_compression = False
    context.array.saving.ocdbt_target_data_file_size = FILE_BYTES
    registry = ocp.handlers.local_registry()
    registry.add(ocp.handlers.JsonHandler, checkpointable_name=IDENTITY)
    context.checkpointables.registry = registry
    context.file.path_class = LiteralPath
    # What hinders making a folder then comes up at once; a thread would wait 20 minutes for it.
    context.asynchronous.create_directories_asynchronously = False
    # Orbax reckons by the time of day, which jumps when a clock is put right, and ends a save that
    # seems to take 20 minutes; that of an import does take as long as what it reads.
    context.asynchronous.timeout_secs = A_WEEK
    return context


def kept_checkpoints(latest: int, kept: Callable[[], Collection[int]]) -> Any:
    """Return what tells Orbax which checkpoints to keep: the latest ones, and those of some steps.

    Args:
        latest: how many.
        kept: tells the steps.
    """

    def should_preserve(checkpoints: Sequence[Any], *, context: Any) -> list[bool]:  # noqa: ARG001
        first = len(checkpoints) - latest
        return [i >= first or each.step in kept() for i, each in enumerate(checkpoints)]

    return SimpleNamespace(should_preserve=should_preserve)
