"""Small models of both families, and runs that hold them."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from fugaku_jax.config import Config, DataConfig, ModelConfig, OptimizerConfig, TrainingConfig
from fugaku_jax.data.store import Store
from fugaku_jax.models.layout import make_layout
from fugaku_jax.run.configuration import CONFIG_FILE
from fugaku_jax.training.checkpoint import RunCheckpoints
from fugaku_jax.training.state import abstract_state

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


def make_run(
    folder: Path, model: ModelConfig, store: Store, reset: bool = False, seed: int = 0
) -> Path:
    """Save a run whose weights are random, none as it was initialised."""
    config = Config(
        model=model,
        optimizer=OptimizerConfig(learning_rate=1e-3),
        training=TrainingConfig(steps=7, batch_size=2),
        data=DataConfig(store=store.url, reset_at_document=reset),
    )
    random = np.random.default_rng(seed)

    def draw(path: tuple, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        centre = 1.0 if "scale" in jax.tree_util.keystr(path) else 0.0
        return jnp.asarray(random.normal(centre, 0.05, leaf.shape), leaf.dtype)

    layout = make_layout(config)
    shapes = abstract_state(layout)  # random numbers of NumPy's need not be compiled
    state = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    weights = jax.tree_util.tree_map_with_path(draw, shapes.parameters)
    state = dataclasses.replace(state, parameters=weights, step=jnp.int32(7))
    folder.mkdir()
    (folder / CONFIG_FILE).write_text(json.dumps(config.to_dict()))
    with RunCheckpoints(folder, config.checkpoint) as checkpoints:
        checkpoints.save(7, layout, state, {"config": config.to_dict()})
    return folder


def logits(model, tokens):
    """Return the logits of tokens, without the vocabulary's padding."""
    graph, weights = nnx.split(model)

    @jax.jit
    def run(weights, tokens):
        model = nnx.merge(graph, weights)
        return model.logits(model(tokens))

    return np.asarray(run(weights, tokens))[..., : model.config.vocab_size]


def same_bits(one, other):
    """Hold two models' weights to be equal, but for the vocabulary's padding."""
    trees = [nnx.to_pure_dict(nnx.state(model)) for model in (one, other)]
    leaves = [jax.tree.leaves_with_path(tree) for tree in trees]
    for (path, x), (_, y) in zip(*leaves, strict=True):
        rows = VOCAB if path[0].key in ("tokens", "output") else None
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(np.asarray(x)[:rows], np.asarray(y)[:rows], str(path))
