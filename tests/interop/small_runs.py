"""Small models of both families, and runs that hold them."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from fugaku_jax.config import Config, DataConfig, ModelConfig, OptimizerConfig, TrainingConfig
from fugaku_jax.data.store import Store
from fugaku_jax.training.checkpoint import CONFIG_FILE, RunCheckpoints
from fugaku_jax.training.state import init_state

VOCAB = 303
TEXTS = ["むかしむかし、あるところに", "the rain in Spain stays mainly in the plain", "x = 1\n"]
GPT2 = ModelConfig(vocab_size=VOCAB, n_layers=2, d_model=288, n_heads=2, sequence_length=20)
LLAMA = dataclasses.replace(GPT2, family="llama", d_model=64, n_heads=4, n_kv_heads=2, tied=False)
MODELS = {
    "gpt2, head dim 144": GPT2,
    "gpt2, untied, narrow": dataclasses.replace(GPT2, d_model=160, d_ff=100, tied=False),
    "llama": LLAMA,
    "llama, head dim 80, tied": dataclasses.replace(
        LLAMA, d_model=160, n_heads=2, n_kv_heads=1, tied=True, rope_theta=5e5
    ),
}


def make_run(folder: Path, model: ModelConfig, store: Store) -> Path:
    """Save a run whose weights are random, none as it was initialised."""
    config = Config(
        model=model,
        optimizer=OptimizerConfig(learning_rate=1e-3),
        training=TrainingConfig(steps=7, batch_size=2),
        data=DataConfig(store=store.url),
    )
    state = init_state(config)
    random = np.random.default_rng(0)
    weights = jax.tree.map(
        lambda x: x + jnp.asarray(random.normal(0, 0.05, x.shape), x.dtype), state.parameters
    )
    state = dataclasses.replace(state, parameters=weights, step=jnp.int32(7))
    folder.mkdir()
    (folder / CONFIG_FILE).write_text(json.dumps(config.to_dict()))
    with RunCheckpoints(folder, config.checkpoint) as checkpoints:
        checkpoints.save(7, config, state, {"config": config.to_dict()})
    return folder
