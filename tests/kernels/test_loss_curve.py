"""A model trained with native kernels follows the reference's loss curve.

Two seeds of the reference differ in their initial weights and in what dropout drops; batches are
the same for all. The distance of two curves is that of their means over ten steps, once averaged
over the run and once where it is largest. By both, the native curve must be no farther from the
reference's of its seed than the reference's other seed is.
"""

import numpy as np
import pytest

from fugaku_jax.config import Config, ModelConfig, OptimizerConfig, TrainingConfig
from fugaku_jax.data.batch import Batch
from fugaku_jax.kernels import native
from fugaku_jax.models.layout import make_layout
from fugaku_jax.training.state import init_state
from fugaku_jax.training.step import make_train_step

pytestmark = pytest.mark.slow

STEPS, WINDOW, SEEDS = 120, 10, (1, 2)
VOCAB, BATCH, LENGTH = 61, 4, 37
FOLLOWERS = 4  # tokens that may come after one, so that ln 4 = 1.4 of ln 61 = 4.1 nats remain


def batches():
    """Draw the batches of a run, `[STEPS, 1, B, T + 1]`, from a Markov chain."""
    random = np.random.default_rng(0)
    follower = random.integers(0, VOCAB, (VOCAB, FOLLOWERS))
    tokens = np.empty((LENGTH + 1, STEPS, 1, BATCH), np.int32)
    tokens[0] = random.integers(0, VOCAB, tokens.shape[1:])
    for position in range(LENGTH):
        choice = random.integers(0, FOLLOWERS, tokens.shape[1:])
        tokens[position + 1] = follower[tokens[position], choice]
    return np.moveaxis(tokens, 0, -1)


def curve(precision, seed):
    """Train, and return the mean loss of each ten steps."""
    config = Config(
        model=ModelConfig(
            vocab_size=VOCAB,
            n_layers=2,
            d_model=40,
            n_heads=2,
            sequence_length=LENGTH,
            dropout=0.1,
            attention_dropout=0.1,
        ),
        optimizer=OptimizerConfig(learning_rate=5e-3, warmup_tokens=20 * BATCH * LENGTH),
        training=TrainingConfig(steps=STEPS, batch_size=BATCH, precision=precision, seed=seed),
    )
    layout = make_layout(config)
    state, step = init_state(layout), make_train_step(layout)
    losses = []
    for tokens in batches():
        state, metrics = step(state, Batch(tokens))
        losses.append(metrics["loss"])
    return np.asarray(losses, np.float64).reshape(-1, WINDOW).mean(1)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_model_trained_with_native_kernels_follows_the_reference(precision):
    with native.use("reference"):
        curves = {seed: curve(precision, seed) for seed in SEEDS}
    theirs, other = (curves[seed] for seed in SEEDS)
    assert theirs[-1] < theirs[0] - 1, "the reference has learnt too little to compare with"
    with native.use("native"):
        ours, spread = np.abs(curve(precision, SEEDS[0]) - theirs), np.abs(other - theirs)
    assert ours.any(), "the native kernels cannot have run"
    assert ours.mean() <= spread.mean()
    assert ours.max() <= spread.max()
