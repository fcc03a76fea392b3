"""Train a tiny model for a few steps on several meshes of emulated devices; save what comes out.

Run by `test_meshes.py`, since the number of emulated devices is fixed when JAX starts:
`python meshes.py OUT.npz '{"name": {"mesh": {...}, "model": {...}, ...}, ...}'`, with `training`,
`data`, `optimizer` and `tuning` as well. A mesh of `n` devices takes the first `n`.
"""

import json
import sys
from typing import Any

import jax
import numpy as np
import optax
from first_steps import lay_out, start_from, train

from fugaku_jax.config import (
    Config,
    DataConfig,
    MeshConfig,
    ModelConfig,
    OptimizerConfig,
    TrainingConfig,
    TuningConfig,
)
from fugaku_jax.training.optax_kinds import scale_by_rate_of_step
from fugaku_jax.training.optimizer import make_optimizer
from fugaku_jax.training.state import init_state

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
    mesh: dict,
    model: dict,
    training: dict,
    data: dict | None = None,
    optimizer: dict | None = None,
    tuning: dict | None = None,
) -> Config:
    """Return the run of one case."""
    tuning = tuning or {}
    return Config(
        model=ModelConfig(**(MODEL | model)),
        # Keys have no gradient for their bias but rounding, which a small epsilon would blow up.
        optimizer=OptimizerConfig(**{"learning_rate": 1e-3, "epsilon": 1e-5} | (optimizer or {})),
        training=TrainingConfig(**(TRAINING | training)),
        data=DataConfig(**(data or {})),
        tuning=TuningConfig(**(tuning | {"targets": tuple(tuning.get("targets", ()))})),
        mesh=MeshConfig(**{"data": 1} | mesh | {"layers": tuple(mesh.get("layers", ()))}),
    )


class OneDevice:
    """The runs of all cases on one device: what they start from, and what comes of them."""

    def __init__(self) -> None:
        self._found: dict[str, dict[str, np.ndarray]] = {}
        self._parameters: dict[str, Any] = {}

    def train(self, *run: dict) -> dict[str, np.ndarray]:
        """Return what a run leaves, trained once however many micro-batches it is cut into."""
        model, training, *rest = run
        run = (model, training | {"micro_batches": 1}, *rest)
        key = json.dumps(run)
        if key not in self._found:
            self._found[key] = train_case({}, self.parameters(model), *run)
        return self._found[key]

    def parameters(self, model: dict) -> Any:
        """Return the initial weights of a model, drawn once: a seed's are those of every mesh."""
        key = json.dumps(model)
        if key not in self._parameters:
            state = init_state(lay_out(make_config({}, model, {})))
            self._parameters[key] = jax.device_get(state.parameters)
        return self._parameters[key]


def train_case(mesh: dict, parameters: Any, *run: dict) -> dict[str, np.ndarray]:
    """Return losses and parameters, and what another optimizer than AdamW remembers."""
    layout = lay_out(make_config(mesh, *run))
    built = BUILT if layout.config.optimizer.kind == "recipe" else None
    optimizer = make_optimizer(layout, built)
    found = train(layout, STEPS, optimizer, start_from(layout, parameters, optimizer))
    return {name: x for name, x in found.items() if not name.startswith("mean/")}


def main() -> None:
    """Run every case; save its results under `case/...`, and of one device under `case/one/...`."""
    saved, one_device = {}, OneDevice()
    for name, case in json.loads(sys.argv[2]).items():
        sections = ("model", "training", "data", "optimizer", "tuning")
        run = [case.get(section, {}) for section in sections]
        alone = one_device.train(*run)
        many = train_case(case["mesh"], one_device.parameters(run[0]), *run)
        saved |= {f"{name}/one/{k}": v for k, v in alone.items()}
        saved |= {f"{name}/many/{k}": v for k, v in many.items()}
        worst = max(
            np.abs(many[k] - one).max() / max(np.abs(one).max(), 1e-30) for k, one in alone.items()
        )
        print(f"{name}: {worst:.1e}", flush=True)
    np.savez(sys.argv[1], **saved)


if __name__ == "__main__":
    main()
