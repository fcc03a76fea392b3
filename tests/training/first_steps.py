"""The first steps of a run on the first devices of this process, and all that they leave."""

import math

import jax
import numpy as np

from fugaku_jax.config import Config
from fugaku_jax.layout.mesh import set_mesh
from fugaku_jax.layout.rules import spec
from fugaku_jax.training.state import check_mesh, init_state, stages_of
from fugaku_jax.training.step import make_train_step

END_OF_DOCUMENT = 0


def lay_out(config: Config) -> None:
    """Set the mesh of a run, on the first devices.

    Raises:
        InputError: the run does not fit it.
    """
    mesh = config.mesh
    count = math.prod((mesh.data, mesh.tensor, mesh.context, mesh.pipeline))
    set_mesh(mesh, jax.devices()[:count])
    check_mesh(config)


def train(config: Config, steps: int) -> dict[str, np.ndarray]:
    """Train on the mesh that was laid out.

    Every eighth token or so ends a document.

    Returns:
        `losses` and `norms` of the steps; sums over `slots without a layer`; the parameters by
        their names, and under `mean/` the first moments, the running means of their gradients.
        Layers are in their order and the vocabulary's rows as the model has them, so that all
        meshes return the same arrays.
    """
    training = config.training
    rows = training.batch_size // training.micro_batches
    shape = (training.micro_batches, rows, config.model.sequence_length + 1)
    random = np.random.default_rng(0)
    state = init_state(config)
    step = make_train_step(config, END_OF_DOCUMENT)
    losses, norms = [], []
    for _ in range(steps):
        tokens = random.integers(0, config.model.vocab_size, shape, np.int32)
        tokens[random.random(shape) < 1 / 8] = END_OF_DOCUMENT
        state, metrics = step(state, jax.device_put(tokens, spec(None, "batch", None)))
        losses.append(float(metrics["loss"]))
        norms.append(float(metrics["grad_norm"]))
    found = {"losses": np.array(losses), "norms": np.array(norms)}
    empty = stages_of(config).layers.ravel() < 0
    learned = (state.parameters, state.moments.mean, state.moments.square)
    stacks = [np.asarray(leaf) for leaf in jax.tree.leaves([tree["blocks"] for tree in learned])]
    found["slots without a layer"] = np.array([np.abs(leaf[empty]).sum() for leaf in stacks])
    for prefix, tree in (("", state.parameters), ("mean/", state.moments.mean)):
        for path, leaf in jax.tree.leaves_with_path(tree):
            name = prefix + jax.tree_util.keystr(path, simple=True, separator=".")
            found[name] = _as_the_model_has_it(config, path[0].key, np.asarray(leaf))
    return found


def _as_the_model_has_it(config: Config, part: str, stored: np.ndarray) -> np.ndarray:
    if part == "blocks":
        return np.asarray(stages_of(config).restore(stored))
    if part in ("tokens", "output"):
        return stored[: config.model.padded_vocab_size]
    return stored
