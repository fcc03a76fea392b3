"""Bring one model of Hugging Face's onto several meshes of emulated devices, and out again.

Run by `test_meshes_import.py`, since the number of emulated devices is fixed when JAX starts:
`python meshes.py FOLDER '{"mesh": {...}, ...}' STORE`. FOLDER/hf is the model; the first step's
figures go to FOLDER/results.json, and the exported models to FOLDER/out-NAME.
"""

import json
import math
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from fugaku_jax.config import Config, DataConfig, MeshConfig, OptimizerConfig, TrainingConfig
from fugaku_jax.data.batch import Batch
from fugaku_jax.data.store import Store
from fugaku_jax.interop.continual import start_from_hf
from fugaku_jax.interop.hf import export_run
from fugaku_jax.interop.hf_shape import read_hf_config
from fugaku_jax.interop.load import load_for_inference
from fugaku_jax.models.layout import make_layout
from fugaku_jax.run.configuration import CONFIG_FILE
from fugaku_jax.training.checkpoint import RunCheckpoints
from fugaku_jax.training.state import fresh_state
from fugaku_jax.training.step import make_train_step


def main() -> None:
    """Go through all meshes."""
    folder, meshes, store = Path(sys.argv[1]), json.loads(sys.argv[2]), Store.open(sys.argv[3])
    results = {}
    for name, fields in meshes.items():
        mesh = MeshConfig(**fields)
        config = Config(
            model=read_hf_config(folder / "hf"),
            optimizer=OptimizerConfig(learning_rate=1e-3),
            training=TrainingConfig(steps=5, batch_size=8, micro_batches=2),
            data=DataConfig(store=store.url),
            mesh=mesh,
        )
        count = math.prod((mesh.data, mesh.tensor, mesh.context, mesh.pipeline))
        layout = make_layout(config, jax.devices()[:count])
        state = fresh_state(layout, start_from_hf(folder / "hf").parameters(layout))
        run = folder / f"run-{name}"
        run.mkdir()
        (run / CONFIG_FILE).write_text(json.dumps(config.to_dict()))
        with RunCheckpoints(run, config.checkpoint) as checkpoints:
            checkpoints.save(1, layout, state, {"config": config.to_dict()})
        export_run(run, folder / f"out-{name}", store, "float32", 10**9)
        shape = (2, 4, config.model.sequence_length + 1)
        tokens = np.random.default_rng(0).integers(0, config.model.vocab_size, shape, np.int32)
        loaded = [load_for_inference(each, jnp.float32)[1] for each in (folder / "hf", run)]
        one, other = (jax.tree.leaves(nnx.state(model)) for model in loaded)
        same = all(np.array_equal(x, y) for x, y in zip(one, other, strict=True))
        step = make_train_step(layout)
        state, metrics = step(state, jax.device_put(Batch(tokens), layout.rows))
        figures = {"loss": float(metrics["loss"]), "norm": float(metrics["grad_norm"])}
        results[name] = figures | {"same": same}
    (folder / "results.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main()
