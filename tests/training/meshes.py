"""Train a tiny model for a few steps on several meshes of emulated devices; save what comes out.

Run by `test_meshes.py`, since the number of emulated devices is fixed when JAX starts:
`python meshes.py OUT.npz '{"name": {"mesh": {...}, "model": {...}, ...}, ...}'`, with `training`
and `data` as well. A mesh of `n` devices takes the first `n`.
"""

import json
import math
import sys

import jax
import numpy as np

from fugaku_jax.config import (
    Config,
    DataConfig,
    MeshConfig,
    ModelConfig,
    OptimizerConfig,
    TrainingConfig,
)
from fugaku_jax.sharding.mesh import set_mesh
from fugaku_jax.sharding.rules import spec
from fugaku_jax.training.state import init_state, stages_of
from fugaku_jax.training.step import make_train_step

STEPS = 5
MODEL = {
    "vocab_size": 250,
    "n_layers": 4,
    "d_model": 24,
    "n_heads": 6,
    "sequence_length": 16,
    "dropout": 0.1,
    "attention_dropout": 0.1,
}
TRAINING = {"steps": 10, "batch_size": 24, "micro_batches": 2}


def make_config(mesh: dict, model: dict, training: dict, data: dict | None = None) -> Config:
    """Return the run of one case."""
    return Config(
        model=ModelConfig(**(MODEL | model)),
        # Keys have no gradient for their bias but rounding, which a small epsilon would blow up.
        optimizer=OptimizerConfig(learning_rate=1e-3, epsilon=1e-5),
        training=TrainingConfig(**(TRAINING | training)),
        data=DataConfig(**(data or {})),
        mesh=MeshConfig(**mesh | {"layers": tuple(mesh.get("layers", ()))}),
    )


def train(config: Config) -> dict[str, np.ndarray]:
    """Train on the mesh of a configuration; return losses and the parameters in layer order."""
    mesh = config.mesh
    count = math.prod((mesh.data, mesh.tensor, mesh.context, mesh.pipeline))
    set_mesh(mesh, jax.devices()[:count])
    training = config.training
    rows = training.batch_size // training.micro_batches
    shape = (training.micro_batches, rows, config.model.sequence_length + 1)
    random = np.random.default_rng(0)
    state = init_state(config)
    step = make_train_step(config, end_of_document=0)
    losses, norms = [], []
    for _ in range(STEPS):
        tokens = random.integers(0, config.model.vocab_size, shape, np.int32)
        state, metrics = step(state, jax.device_put(tokens, spec(None, "batch", None)))
        losses.append(float(metrics["loss"]))
        norms.append(float(metrics["grad_norm"]))
    found = {"losses": np.array(losses), "norms": np.array(norms)}
    stages = stages_of(config)
    empty = stages.layers.ravel() < 0
    learned = (state.parameters, state.moments.mean, state.moments.square)
    stacks = [np.asarray(leaf) for leaf in jax.tree.leaves([tree["blocks"] for tree in learned])]
    found["slots without a layer"] = np.array([np.abs(leaf[empty]).sum() for leaf in stacks])
    for path, leaf in jax.tree.leaves_with_path(state.parameters):
        array = np.asarray(leaf)
        if path[0].key == "blocks":
            array = np.asarray(stages.restore(array))
        rows = config.model.padded_vocab_size
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        found[name] = array[:rows] if name.startswith(("tokens", "output")) else array
    return found


def main() -> None:
    """Run every case; save its results under `case/...`, and of one device under `case/one/...`."""
    saved, known = {}, {}
    for name, case in json.loads(sys.argv[2]).items():
        run = [case.get(section, {}) for section in ("model", "training", "data")]
        key = json.dumps(run)
        if key not in known:
            known[key] = train(make_config({"data": 1}, *run))
        many = train(make_config(case["mesh"], *run))
        saved |= {f"{name}/one/{k}": v for k, v in known[key].items()}
        saved |= {f"{name}/many/{k}": v for k, v in many.items()}
        worst = max(
            np.abs(many[k] - one).max() / max(np.abs(one).max(), 1e-30)
            for k, one in known[key].items()
        )
        print(f"{name}: {worst:.1e}", flush=True)
    np.savez(sys.argv[1], **saved)


if __name__ == "__main__":
    main()
