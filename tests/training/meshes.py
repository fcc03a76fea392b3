"""Train a tiny model for a few steps on several meshes of emulated devices; save what comes out.

Run by `test_meshes.py`, since the number of emulated devices is fixed when JAX starts:
`python meshes.py OUT.npz '{"name": {"mesh": {...}, "model": {...}, ...}, ...}'`, with `training`
and `data` as well. A mesh of `n` devices takes the first `n`.
"""

import json
import sys

import numpy as np
from first_steps import lay_out, train

from fugaku_jax.config import (
    Config,
    DataConfig,
    MeshConfig,
    ModelConfig,
    OptimizerConfig,
    TrainingConfig,
)

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
        mesh=MeshConfig(**{"data": 1} | mesh | {"layers": tuple(mesh.get("layers", ()))}),
    )


def train_case(mesh: dict, *run: dict) -> dict[str, np.ndarray]:
    """Return losses and parameters, but no moments."""
    config = make_config(mesh, *run)
    return {k: x for k, x in train(lay_out(config), STEPS).items() if not k.startswith("mean/")}


def main() -> None:
    """Run every case; save its results under `case/...`, and of one device under `case/one/...`."""
    saved, known = {}, {}
    for name, case in json.loads(sys.argv[2]).items():
        run = [case.get(section, {}) for section in ("model", "training", "data")]
        key = json.dumps(run)
        if key not in known:
            known[key] = train_case({}, *run)
        many = train_case(case["mesh"], *run)
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
