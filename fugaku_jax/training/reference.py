"""What DPO holds a model to: the losses of the model that it began as, found once and kept.

They are a file beside the run's store, of each token of its only set the loss of what predicts it,
so that a row's are where its tokens are.
"""

import functools
from pathlib import Path

import jax
import numpy as np
from flax import nnx
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding
from jaxtyping import Array, Float, PyTree

from fugaku_jax.cluster.decisions import wait_for_all
from fugaku_jax.cluster.processes import is_writer
from fugaku_jax.data.batch import Batch, marked_batch
from fugaku_jax.data.store import Store
from fugaku_jax.errors import InputError
from fugaku_jax.layout.layout import Layout
from fugaku_jax.models.gpt import GPT
from fugaku_jax.models.layout import whole
from fugaku_jax.run.identity import TUNING_FOLDER
from fugaku_jax.run.whole_file import replace_file
from fugaku_jax.training.precision import COMPUTE_DTYPES, Precision
from fugaku_jax.training.whole_model import whole_model

FILE = "reference.npy"


def reference_of_run(run_dir: Path, store: Store) -> Float[np.ndarray, "N"]:
    """Return the losses that a run has kept, mapped into memory.

    Raises:
        InputError: there are none, or they are of another store.
    """
    path, tokens = run_dir / TUNING_FOLDER / FILE, store.sets[0].train.tokens
    try:
        kept = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path}: cannot be read: {error}; begin in another --run-dir.") from error
    if kept.shape != (tokens,) or kept.dtype != np.float32:
        raise InputError(f"{path}: does not hold {tokens} losses; begin in another --run-dir.")
    return kept


def keep_reference(
    run_dir: Path, store: Store, layout: Layout, parameters: PyTree[Float[Array, "..."]]
) -> None:
    """Find the losses of all rows of a store by a run's first weights, and keep them.

    Args:
        run_dir: the run.
        store: what it reads, pairs in its only set.
        layout: the run on its mesh.
        parameters: where it has them.
    """
    config, rules = layout.config, whole(layout).rules
    length, devices = config.model.sequence_length, rules.parts("batch")
    micro_batch = config.training.batch_size // config.training.micro_batches
    rows, tokens = -(-micro_batch // devices) * devices, store.sets[0].train.tokens
    structure, weights = nnx.split(whole_model(layout, parameters))
    sharding = NamedSharding(layout.mesh, rules.spec("batch", None))

    def place(block: np.ndarray) -> Array:
        return jax.make_array_from_callback(block.shape, sharding, block.__getitem__)

    found = np.zeros(tokens, np.float32)
    starts = np.arange(0, tokens - length, length)
    for first in range(0, len(starts), rows):
        some = starts[first : first + rows]
        marked = store.read_marked(0, "train", np.resize(some, rows), length + 1)
        batch = jax.tree.map(place, marked_batch(marked))
        with layout.active():
            losses = _losses(structure, config.training.precision, weights, batch)
        whole_losses = multihost_utils.process_allgather(losses, tiled=True)
        for start, each in zip(some, whole_losses, strict=False):
            found[start + 1 : start + 1 + length] = each
    if is_writer():
        path = run_dir / TUNING_FOLDER / FILE
        path.parent.mkdir(exist_ok=True)
        replace_file(path, lambda file: np.save(file, found))
    wait_for_all("reference")


@functools.partial(jax.jit, static_argnums=(0, 1))
def _losses(
    structure: nnx.GraphDef[GPT],
    precision: Precision,
    weights: PyTree[Float[Array, "..."]],
    batch: Batch,
) -> Float[Array, "B T"]:
    model = nnx.merge(structure, weights)
    dtype = COMPUTE_DTYPES[precision]
    hidden = model(batch.tokens[:, :-1], segment_ids=batch.segments, dtype=dtype)
    return model.loss(hidden, batch.tokens[:, 1:], batch.weights)[1]
