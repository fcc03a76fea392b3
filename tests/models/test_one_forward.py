"""Training, pipelines, evaluation and generation pass through the same pieces of the model."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fugaku_jax.config import Config, MeshConfig, ModelConfig, OptimizerConfig, TrainingConfig
from fugaku_jax.data.batch import Batch
from fugaku_jax.evaluation.perplexity import _summed_nats
from fugaku_jax.inference import cache, ragged
from fugaku_jax.inference.packing import pack
from fugaku_jax.inference.weights import laid_out
from fugaku_jax.models.gpt import GPT, Block
from fugaku_jax.models.layout import make_layout
from fugaku_jax.training.state import abstract_state
from fugaku_jax.training.step import make_train_step

MODEL = ModelConfig(vocab_size=61, n_layers=2, d_model=16, n_heads=2, sequence_length=8)
TOKENS = np.zeros((2, 9), np.int32)


def trained(**mesh):
    """Trace the step of a run on a mesh, whose devices need not exist."""
    config = Config(
        model=MODEL,
        optimizer=OptimizerConfig(learning_rate=1e-3),
        training=TrainingConfig(steps=1, batch_size=4, micro_batches=2),
        mesh=MeshConfig(data=1, **mesh),
    )
    layout = make_layout(config, config.mesh.pipeline)
    make_train_step(layout).trace(abstract_state(layout), layout.batch)


def a_model():
    return GPT(MODEL, jax.random.key(0))


def evaluated():
    structure, weights = nnx.split(jax.eval_shape(a_model))
    _summed_nats.trace(structure, weights, Batch(TOKENS, np.ones((2, 8), np.float32)))


def generated(pass_, most=(), steps=()):
    model = laid_out(a_model(), jnp.float32)
    structure, weights = nnx.split(model)
    kept, pieces = (
        cache.empty_cache(model, 2, 8, jnp.float32),
        ragged.Pieces(TOKENS[0], TOKENS[0, 0]),
    )
    packed = pack([], [], 1, 1, 8, 1)
    pass_.trace(structure, *most, weights, kept, *packed, pieces, *steps)


WAYS = {
    "training": (trained, "loss"),
    "a pipeline": (functools.partial(trained, pipeline=2), "loss"),
    "evaluation": (evaluated, "loss"),
    "prompts": (functools.partial(generated, ragged.extend), "padded_logits"),
    "generation": (functools.partial(generated, ragged.repeat, (1,), (1,)), "padded_logits"),
}


def watch(piece, seen):
    def watched(*given, **named):
        seen.add(piece.__name__)
        return piece(*given, **named)

    return watched


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_what_the_model_does_is_written_once_for_all_who_use_it(way, monkeypatch):
    go, end = WAYS[way]
    seen = set()
    pieces = [(GPT, "embed"), (Block, "__call__"), (GPT, "loss"), (GPT, "padded_logits")]
    for owner, name in pieces:
        monkeypatch.setattr(owner, name, watch(getattr(owner, name), seen))
    go()
    assert seen == {"embed", "__call__", end}
