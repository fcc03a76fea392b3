"""The first steps of a run on the first devices of this process, and all that they leave."""

import math

import jax
import numpy as np

from fugaku_jax.config import Config
from fugaku_jax.data.batch import Batch, document_segments
from fugaku_jax.layout.layout import Layout
from fugaku_jax.models.layout import make_layout
from fugaku_jax.training.state import init_state
from fugaku_jax.training.step import make_train_step

END_OF_DOCUMENT = 0


def lay_out(config: Config) -> Layout:
    """Lay a run out on the first devices.

    Raises:
        InputError: the run does not fit its mesh.
    """
    mesh = config.mesh
    count = math.prod((mesh.data, mesh.tensor, mesh.context, mesh.pipeline))
    return make_layout(config, jax.devices()[:count])


def train(layout: Layout, steps: int) -> dict[str, np.ndarray]:
    """Train a run.

    Every eighth token or so ends a document. Where attention starts anew behind it, the batches
    have weights, too, as those of packed conversations would.

    Returns:
        `losses` and `norms` of the steps; `losses of positions` of the last one; sums over `slots
        without a layer`; the parameters by their names, and under `mean/` the first moments, the
        running means of their gradients. Layers are in their order and the vocabulary's rows as
        the model has them, so that all meshes return the same arrays.
    """
    config, training = layout.config, layout.config.training
    rows = training.batch_size // training.micro_batches
    shape = (training.micro_batches, rows, config.model.sequence_length + 1)
    random = np.random.default_rng(0)
    state = init_state(layout)
    step = make_train_step(layout, keep_losses=True)
    losses, norms = [], []
    for _ in range(steps):
        tokens = random.integers(0, config.model.vocab_size, shape, np.int32)
        tokens[random.random(shape) < 1 / 8] = END_OF_DOCUMENT
        batch = Batch(tokens)
        if layout.batch.segments is not None:
            weights = random.choice(np.float32([0, 0.5, 1]), (*shape[:2], shape[2] - 1))
            batch = Batch(tokens, weights, document_segments(tokens, END_OF_DOCUMENT))
        state, metrics = step(state, jax.device_put(batch, layout.rows))
        losses.append(float(metrics["loss"]))
        norms.append(float(metrics["grad_norm"]))
    found = {"losses": np.array(losses), "norms": np.array(norms)}
    found["losses of positions"] = np.asarray(metrics["losses"])
    empty = layout.stages.layers.ravel() < 0
    learned = (state.parameters, state.moments.mean, state.moments.square)
    stacks = [np.asarray(leaf) for leaf in jax.tree.leaves([tree["blocks"] for tree in learned])]
    found["slots without a layer"] = np.array([np.abs(leaf[empty]).sum() for leaf in stacks])
    for prefix, tree in (("", state.parameters), ("mean/", state.moments.mean)):
        for path, leaf in jax.tree.leaves_with_path(tree):
            name = prefix + jax.tree_util.keystr(path, simple=True, separator=".")
            found[name] = _as_the_model_has_it(layout, path[0].key, np.asarray(leaf))
    return found


def _as_the_model_has_it(layout: Layout, part: str, stored: np.ndarray) -> np.ndarray:
    if part == "blocks":
        return np.asarray(layout.stages.restore(stored))
    if part in ("tokens", "output"):
        return stored[: layout.config.model.padded_vocab_size]
    return stored
