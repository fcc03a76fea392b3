"""Train a tiny model for a few steps on several meshes of emulated devices; save what comes out.

Run by `test_meshes.py`, since the number of emulated devices is fixed when JAX starts:
`python meshes.py OUT.npz '{"name": {"mesh": {...}, "model": {...}, ...}, ...}'`, with `training`,
`data` and `optimizer` as well. A mesh of `n` devices takes the first `n`.
"""

import json
import sys

import numpy as np
import optax
from first_steps import lay_out, train

from fugaku_jax.config import (
    Config,
    DataConfig,
    MeshConfig,
    ModelConfig,
    OptimizerConfig,
    TrainingConfig,
)
from fugaku_jax.training.optax_kinds import scale_by_rate_of_step
from fugaku_jax.training.optimizer import make_optimizer

STEPS = 5
BUILT = optax.chain(optax.adafactor(min_dim_size_to_factor=8), scale_by_rate_of_step())
"""What a recipe builds: rows and columns for matrices as small as these."""
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


def make_config(
    mesh: dict, model: dict, training: dict, data: dict | None = None, optimizer: dict | None = None
) -> Config:
    """Return the run of one case."""
    return Config(
        model=ModelConfig(**(MODEL | model)),
        # Keys have no gradient for their bias but rounding, which a small epsilon would blow up.
        optimizer=OptimizerConfig(**{"learning_rate": 1e-3, "epsilon": 1e-5} | (optimizer or {})),
        training=TrainingConfig(**(TRAINING | training)),
        data=DataConfig(**(data or {})),
        mesh=MeshConfig(**{"data": 1} | mesh | {"layers": tuple(mesh.get("layers", ()))}),
    )


def train_case(mesh: dict, *run: dict) -> dict[str, np.ndarray]:
    """Return losses and parameters, and what another optimizer than AdamW remembers."""
    layout = lay_out(make_config(mesh, *run))
    built = BUILT if layout.config.optimizer.kind == "recipe" else None
    found = train(layout, STEPS, make_optimizer(layout, built))
    return {name: x for name, x in found.items() if not name.startswith("mean/")}


def main() -> None:
    """Run every case; save its results under `case/...`, and of one device under `case/one/...`."""
    saved, known = {}, {}
    for name, case in json.loads(sys.argv[2]).items():
        run = [case.get(section, {}) for section in ("model", "training", "data", "optimizer")]
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
