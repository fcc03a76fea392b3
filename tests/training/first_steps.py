"""The first steps of a run on the first devices of this process, and all that they leave."""

import math
from dataclasses import replace

import jax
import numpy as np
from jax.sharding import NamedSharding
from jaxtyping import Array, Float, PyTree

from fugaku_jax.config import Config
from fugaku_jax.data.batch import Batch, document_segments
from fugaku_jax.layout.layout import Layout
from fugaku_jax.models.layout import make_layout
from fugaku_jax.training.adamw import Moments
from fugaku_jax.training.optimizer import Optimizer
from fugaku_jax.training.state import TrainState, fresh_state, init_state
from fugaku_jax.training.step import make_train_step
from fugaku_jax.training.storage_order import in_layer_order, parameters_in_storage_order

END_OF_DOCUMENT = 0


def lay_out(config: Config) -> Layout:
    """Lay a run out on the first devices.

    Raises:
        InputError: the run does not fit its mesh.
    """
    mesh = config.mesh
    count = math.prod((mesh.data, mesh.tensor, mesh.context, mesh.pipeline))
    return make_layout(config, jax.devices()[:count])


def start_from(
    layout: Layout, parameters: PyTree[Float[Array, "..."]], optimizer: Optimizer | None = None
) -> TrainState:
    """Return the state before the first step with the parameters of another mesh, in layer order.

    It is compiled in a tenth of the time that drawing them anew takes.
    """
    stored = parameters_in_storage_order(layout, parameters)
    places = [
        NamedSharding(layout.mesh, p.spec(state=False)) for p in jax.tree.leaves(layout.placements)
    ]
    leaves, tree = jax.tree.flatten(stored)
    placed = tree.unflatten(jax.device_put(leaves, places))
    return fresh_state(layout, placed, optimizer)


def train(
    layout: Layout,
    steps: int,
    optimizer: Optimizer | None = None,
    state: TrainState | None = None,
) -> dict[str, np.ndarray]:
    """Train a run.

    Every eighth token or so ends a document. Where attention starts anew behind it, the batches
    have weights, too, as those of packed conversations would. The optimizer is the one that the
    run names, and the state that of its seed, if none is given.

    Returns:
        `losses` and `norms` of the steps; `losses of positions` of the last one, row by row; sums
        over `slots without a layer` and over places between the ends of a pipeline; `between the
        ends`, by how much what the last stage holds differs from what the first does; the
        parameters by their names, and under `mean/` the first moments, the running means of their
        gradients; with another optimizer than AdamW, in their place, under `memory/`, what a
        checkpoint holds of what it remembers. Layers are in their order and the vocabulary's rows
        as the model has them, so that all meshes return the same arrays.
    """
    config, training = layout.config, layout.config.training
    rows = training.batch_size // training.micro_batches
    shape = (training.micro_batches, rows, config.model.sequence_length + 1)
    random = np.random.default_rng(0)
    state = state or init_state(layout, optimizer)
    step = make_train_step(layout, True, optimizer)
    losses, norms = [], []
    for _ in range(steps):
        tokens = random.integers(0, config.model.vocab_size, shape, np.int32)
        tokens[random.random(shape) < 1 / 8] = END_OF_DOCUMENT
        batch = Batch(tokens)
        if layout.batch.segments is not None:
            weights = random.choice(np.float32([0, 0.5, 1]), (*shape[:2], shape[2] - 1))
            batch = Batch(tokens, weights, document_segments(tokens, END_OF_DOCUMENT))
        if layout.batch.reference is not None:
            reference = random.normal(5, 1, weights.shape).astype(np.float32)
            batch = replace(batch, reference=reference)
        state, metrics = step(state, jax.device_put(batch, layout.rows))
        losses.append(float(metrics["loss"]))
        norms.append(float(metrics["grad_norm"]))
    found = {"losses": np.array(losses), "norms": np.array(norms)}
    if "losses" in metrics:
        found["losses of positions"] = np.asarray(metrics["losses"]).reshape(-1, shape[2] - 1)
    for name in metrics.keys() & {"margin", "accuracy"}:
        found[name] = np.asarray(metrics[name])
    empty = layout.stages.layers.ravel() < 0
    learned, named = [state.parameters], [("", state.parameters)]
    if isinstance(state.moments, Moments):
        learned += [state.moments.mean, state.moments.square]
        named += [("mean/", state.moments.mean)]
    stacks = [np.asarray(leaf) for leaf in jax.tree.leaves([tree["blocks"] for tree in learned])]
    unused = [leaf[empty] for leaf in stacks]
    at_ends = [
        np.asarray(leaf).reshape(layout.rules.parts("stage"), -1)
        for leaf in jax.tree.leaves([tree | {"blocks": {}} for tree in learned])
    ]
    unused += [places[1:-1] for places in at_ends]
    found["slots without a layer"] = np.array([np.abs(leaf).sum() for leaf in unused])
    found["between the ends"] = np.array([0, *(np.abs(x[-1] - x[0]).max() for x in at_ends)])
    for prefix, tree in named:
        for path, leaf in jax.tree.leaves_with_path(tree):
            name = prefix + jax.tree_util.keystr(path, simple=True, separator=".")
            found[name] = _as_the_model_has_it(layout, path[0].key, np.asarray(leaf))
    if not isinstance(state.moments, Moments):
        for path, leaf in jax.tree.leaves_with_path(in_layer_order(layout, state).moments):
            found["memory/" + jax.tree_util.keystr(path)] = np.asarray(leaf)
    return found


def _as_the_model_has_it(layout: Layout, part: str, stored: np.ndarray) -> np.ndarray:
    if part == "blocks":
        return np.asarray(layout.stages.restore(stored))
    stored = stored[: len(stored) // layout.rules.parts("stage")]
    if part in ("tokens", "output"):
        return stored[: layout.config.model.padded_vocab_size]
    return stored
