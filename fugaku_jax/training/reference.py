"""What DPO holds a model to: the losses of the model that it began as, found once and kept.

They are two files beside the run's store, one for the pairs to learn from and one for those held
out: of each token of its only set the loss of what predicts it, so that a row's are where its
tokens are. Each process writes those of the rows that its devices have, into one file for all.
"""

import functools
import os
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding
from jaxtyping import Array, Float, Int64, PyTree

from fugaku_jax.cluster.decisions import wait_for_all
from fugaku_jax.cluster.processes import is_writer
from fugaku_jax.data.batch import Batch
from fugaku_jax.data.marked_batch import marked_batch
from fugaku_jax.data.store import Store
from fugaku_jax.data.store_format import SPLITS, SplitName
from fugaku_jax.errors import InputError
from fugaku_jax.layout.layout import Layout
from fugaku_jax.models.gpt import GPT
from fugaku_jax.models.layout import whole
from fugaku_jax.run.identity import TUNING_FOLDER
from fugaku_jax.training.precision import COMPUTE_DTYPES, Precision
from fugaku_jax.training.whole_model import whole_model

FILES: dict[SplitName, str] = {"train": "reference.npy", "validation": "reference_held_out.npy"}
"""In the folder of what a run has of its dialogues."""


def reference_of_run(
    run_dir: Path, store: Store, split: SplitName = "train"
) -> Float[np.ndarray, "N"]:
    """Return the losses that a run has kept, mapped into memory.

    Raises:
        InputError: there are none, or they are of another store.
    """
    path, tokens = run_dir / TUNING_FOLDER / FILES[split], _tokens(store, split)
    try:
        kept = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path}: cannot be read: {error}; begin in another --run-dir.") from error
    if kept.shape != (tokens,) or kept.dtype != np.float32:
        raise InputError(f"{path}: does not hold {tokens} losses; begin in another --run-dir.")
    return kept


def keep_reference(
    run_dir: Path, store: Store, layout: Layout, weights: PyTree[Float[Array, "..."]]
) -> None:
    """Find the losses of all rows of a store by a run's first weights, and keep them.

    Args:
        run_dir: the run.
        store: what it reads, pairs in its only set.
        layout: the run on its mesh.
        weights: of the whole model, where the run has them.
    """
    structure, state = nnx.split(whole_model(layout, weights))
    precision = layout.config.training.precision
    for split in SPLITS:
        if not _tokens(store, split):
            continue
        path = run_dir / TUNING_FOLDER / FILES[split]
        unfinished = path.with_name(f".{path.name}.partial")
        if is_writer():
            path.parent.mkdir(exist_ok=True)
            np.lib.format.open_memmap(unfinished, "w+", np.float32, (_tokens(store, split),))
        wait_for_all("reference begun")
        first_byte = np.load(unfinished, mmap_mode="r").offset
        with unfinished.open("r+b") as file:
            for starts, batch in rows_of(store, split, layout):
                with layout.active():
                    losses = losses_of(structure, precision, state, batch)
                for start, values in _own_rows(losses, starts):
                    file.seek(first_byte + start * values.itemsize)
                    file.write(values.tobytes())
            file.flush()
            os.fsync(file.fileno())
        wait_for_all("reference written")
        if is_writer():
            unfinished.replace(path)
    wait_for_all("reference")


def rows_of(
    store: Store, split: SplitName, layout: Layout, most_tokens: int | None = None
) -> Iterator[tuple[Int64[np.ndarray, "N"], Batch]]:
    """Yield the rows of a store of dialogues in order, a micro-batch at a time.

    Args:
        store: of rows of the model's sequence length.
        split: which side of it.
        layout: the run on its mesh.
        most_tokens: of as many rows as have so many; one row at least. All if not given.

    Yields:
        the first token of each row, and the rows on the mesh, `[B, ...]`; where fewer are left,
        rows that count nothing are behind them.
    """
    config, rules = layout.config, whole(layout).rules
    length, devices = config.model.sequence_length, rules.parts("batch")
    micro_batch = config.training.batch_size // config.training.micro_batches
    rows = -(-micro_batch // devices) * devices
    sharding = NamedSharding(layout.mesh, rules.spec("batch", None))

    def place(block: np.ndarray) -> Array:
        return jax.make_array_from_callback(block.shape, sharding, block.__getitem__)

    starts = np.arange(0, _tokens(store, split) - length, length)
    if most_tokens is not None:
        starts = starts[: max(1, most_tokens // length)]
    for first in range(0, len(starts), rows):
        some = starts[first : first + rows]
        batch = marked_batch(store.read_marked(0, split, np.resize(some, rows), length + 1))
        batch.weights[len(some) :] = 0
        yield some, jax.tree.map(place, batch)


@functools.partial(jax.jit, static_argnums=(0, 1))
def losses_of(
    structure: nnx.GraphDef[GPT],
    precision: Precision,
    weights: PyTree[Float[Array, "..."]],
    batch: Batch,
) -> Float[Array, "B T"]:
    """Return the loss of each position of some rows, in nats.

    Args:
        structure: of a model for use.
        precision: of the arithmetic.
        weights: of the model.
        batch: rows on its mesh.
    """
    model = nnx.merge(structure, weights)
    dtype = COMPUTE_DTYPES[precision]
    hidden = model(batch.tokens[:, :-1], segment_ids=batch.segments, dtype=dtype)
    return model.loss(hidden, batch.tokens[:, 1:], batch.weights)[1]


def _own_rows(
    losses: Float[Array, "B T"], starts: Int64[np.ndarray, "N"]
) -> Iterator[tuple[int, Float[np.ndarray, "_"]]]:
    """Yield what this process has of the rows, none that another has too, each by its token."""
    for shard in losses.addressable_shards:
        if shard.replica_id:
            continue
        row, column = (each.start or 0 for each in shard.index)
        for start, values in zip(starts[row:], np.asarray(shard.data), strict=False):
            yield int(start) + 1 + column, values


def _tokens(store: Store, split: SplitName) -> int:
    return getattr(store.sets[0], split).tokens
