"""The chunked cross-entropy, held to NumPy in float64 and to `jax.grad` of the plain formula."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fugaku_jax.config import Config, ModelConfig, OptimizerConfig, TrainingConfig
from fugaku_jax.kernels import loss
from fugaku_jax.kernels.loss import cross_entropy
from fugaku_jax.models.layout import make_layout
from fugaku_jax.training.state import abstract_state
from fugaku_jax.training.step import make_train_step

B, T, D, V, VOCAB = 2, 12, 16, 40, 33


@pytest.fixture(params=[1, 3], ids=lambda n: f"{n} chunks")
def chunks(request, monkeypatch):
    """Allow a chunk just T / n positions."""
    monkeypatch.setattr(loss, "CHUNK_BYTES", 4 * V * B * T // request.param)


def operands(seed=0, dtype=jnp.float32):
    random = np.random.default_rng(seed)
    hidden = jnp.asarray(random.normal(size=(B, T, D)), dtype)
    embedding = jnp.asarray(random.normal(size=(V, D)) / 2, jnp.float32)
    targets = jnp.asarray(random.integers(0, VOCAB, (B, T)), jnp.int32)
    weights = jnp.asarray(random.choice([0.0, 0.25, 1.0], (B, T)), jnp.float32)
    return hidden, embedding, targets, weights


def in_float64(hidden, embedding, targets, weights, z_loss):
    hidden, embedding = np.asarray(hidden, np.float64), np.asarray(embedding, np.float64)
    logits = hidden @ embedding[:VOCAB].T
    log_z = np.log(np.exp(logits).sum(-1))
    target = np.take_along_axis(logits, np.asarray(targets)[..., None], -1)[..., 0]
    losses = log_z - target + z_loss * log_z**2
    return np.sum(np.asarray(weights) * losses), losses


def plain(hidden, embedding, targets, weights, z_loss):
    logits = hidden.astype(jnp.float32) @ embedding[:VOCAB].T
    log_z = jax.nn.logsumexp(logits, axis=-1)
    target = jnp.take_along_axis(logits, targets[..., None], -1)[..., 0]
    return (weights * (log_z - target + z_loss * log_z**2)).sum()


@pytest.mark.usefixtures("chunks")
@pytest.mark.parametrize("z_loss", [0.0, 0.1])
@pytest.mark.parametrize("differentiated", [False, True])
def test_the_loss_equals_numpy_in_float64(z_loss, differentiated):
    hidden, embedding, targets, weights = operands()

    def function(hidden):
        return cross_entropy(hidden, embedding, targets, weights, VOCAB, z_loss)

    if differentiated:
        function = jax.value_and_grad(function, has_aux=True)
    value, losses = jax.tree.leaves(jax.jit(function)(hidden))[:2]
    expected, each = in_float64(hidden, embedding, targets, weights, z_loss)
    # A sum of 24 terms of order 1 in fp32.
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(losses, each, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("chunks")
@pytest.mark.parametrize("z_loss", [0.0, 0.1])
def test_gradients_equal_those_of_the_plain_formula(z_loss):
    hidden, embedding, targets, weights = operands()

    # Scaled as fp16 training scales its loss, so that the backward pass sees a cotangent.
    def fused(h, e):
        return 1024 * cross_entropy(h, e, targets, weights, VOCAB, z_loss)[0]

    def unfused(h, e):
        return 1024 * plain(h, e, targets, weights, z_loss)

    ours = jax.jit(jax.grad(fused, (0, 1)))(hidden, embedding)
    theirs = jax.jit(jax.grad(unfused, (0, 1)))(hidden, embedding)
    for our, their in zip(ours, theirs, strict=True):
        assert our.dtype == their.dtype
        np.testing.assert_allclose(our, their, rtol=2e-5, atol=2e-5 * 1024)


def test_a_position_of_weight_0_has_no_loss_and_no_gradient():
    hidden, embedding, targets, weights = operands()
    weights = weights.at[:, 5].set(0).at[1].set(0)
    function = jax.value_and_grad(cross_entropy, has_aux=True)
    function = jax.jit(function, static_argnums=4)
    (value, _), gradient = function(hidden, embedding, targets, weights, VOCAB)
    gradient = np.asarray(gradient)
    assert np.all(gradient[:, 5] == 0)
    assert np.all(gradient[1] == 0)
    assert np.any(gradient[0, np.asarray(weights[0] > 0)] != 0)
    other = targets.at[:, 5].set(0).at[1].set(1)
    assert function(hidden, embedding, other, weights, VOCAB)[0][0] == value


def test_padding_rows_get_no_gradient():
    hidden, embedding, targets, weights = operands()
    given = hidden, embedding, targets, weights, VOCAB, 0.1
    gradient, _ = jax.grad(cross_entropy, 1, has_aux=True)(*given)
    assert np.all(np.asarray(gradient[VOCAB:]) == 0)
    assert np.all(np.any(np.asarray(gradient[:VOCAB]) != 0, axis=1))


@pytest.mark.slow
def test_narrow_states_give_a_loss_close_to_float64_and_gradients_of_their_own_type():
    hidden, embedding, targets, weights = operands(dtype=jnp.bfloat16)
    function = jax.value_and_grad(lambda *x: cross_entropy(*x, VOCAB)[0], (0, 1))
    value, (d_hidden, d_embedding) = jax.jit(function)(hidden, embedding, targets, weights)
    assert (value.dtype, d_hidden.dtype) == (jnp.float32, jnp.bfloat16)
    assert d_embedding.dtype == jnp.float32
    # The embedding is rounded to 8 bits, 0.4 % of a logit of order 2, at random.
    np.testing.assert_allclose(
        value, in_float64(hidden, embedding, targets, weights, 0.0)[0], rtol=5e-3
    )
    wide = jax.grad(plain)(hidden.astype(jnp.float32), embedding, targets, weights, 0.0)
    np.testing.assert_allclose(d_hidden.astype(jnp.float32), wide, atol=0.03)


def test_extreme_logits_stay_finite():
    hidden, embedding, targets, weights = operands()
    (value, _), gradient = jax.value_and_grad(cross_entropy, has_aux=True)(
        1000 * hidden, embedding, targets, jnp.ones_like(weights), VOCAB
    )
    assert np.isfinite(value)
    assert np.all(np.isfinite(gradient))
    target = np.take_along_axis(
        np.asarray(1000 * hidden, np.float64) @ np.asarray(embedding, np.float64)[:VOCAB].T,
        np.asarray(targets)[..., None],
        -1,
    )
    assert value < np.abs(target).sum() * 40


ROWS, POSITIONS, CHUNK = 4096, 2 * 64, 2 * 8
"""Vocabulary rows, positions of a batch, and positions that a chunk may have."""


AS_IN_A_RUN = {"xla_cpu_use_fusion_emitters": True}


def largest_logits(program):
    """Return the elements of the largest fp32 array of the program with a vocabulary axis."""
    shapes = re.findall(r"f32\[([0-9,]+)\]", program.as_text())
    sizes = [[int(n) for n in shape.split(",")] for shape in shapes]
    return max(math.prod(size) for size in sizes if ROWS in size)


def compiled_gradient(function):
    operands = (
        jnp.zeros((2, 64, D)),
        jnp.zeros((ROWS, D)),
        jnp.zeros((2, 64), jnp.int32),
        jnp.ones((2, 64)),
    )
    return jax.jit(jax.grad(function, (0, 1))).lower(*operands).compile(AS_IN_A_RUN)


def test_the_compiled_gradient_never_holds_the_logits_of_the_batch(monkeypatch):
    monkeypatch.setattr(loss, "CHUNK_BYTES", 4 * ROWS * CHUNK)
    ours = compiled_gradient(lambda *x: cross_entropy(*x, ROWS)[0])
    assert largest_logits(ours) <= CHUNK * ROWS
    # The chunk's logits and what comes of them, an eighth of the whole each.
    assert ours.memory_analysis().temp_size_in_bytes < 4 * POSITIONS * ROWS / 2

    def unchunked(h, e, t, w):
        logits = h @ e.T
        picked = jnp.take_along_axis(logits, t[..., None], -1)[..., 0]
        return (w * (jax.nn.logsumexp(logits, axis=-1) - picked)).sum()

    # Both measures would have caught it.
    theirs = compiled_gradient(unchunked)
    assert largest_logits(theirs) >= POSITIONS * ROWS
    assert theirs.memory_analysis().temp_size_in_bytes >= 4 * POSITIONS * ROWS


@pytest.mark.slow
def test_the_compiled_training_step_never_holds_the_logits_of_the_batch(monkeypatch):
    monkeypatch.setattr(loss, "CHUNK_BYTES", 4 * ROWS * CHUNK)
    config = Config(
        model=ModelConfig(vocab_size=ROWS, n_layers=1, d_model=D, n_heads=2, sequence_length=64),
        optimizer=OptimizerConfig(learning_rate=1e-3),
        training=TrainingConfig(steps=1, batch_size=2, precision="bf16"),
    )
    layout = make_layout(config)
    step = make_train_step(layout)
    program = step.lower(abstract_state(layout), layout.batch).compile(AS_IN_A_RUN)
    assert largest_logits(program) <= CHUNK * ROWS
