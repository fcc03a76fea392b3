"""AdamW, held to the paper's algorithm in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from fugaku_jax.kernels.adamw import adamw

RATE, DECAY, BETA1, BETA2, EPSILON = 0.01, 0.1, 0.9, 0.95, 1e-8

update = jax.jit(
    functools.partial(adamw, weight_decay=DECAY, beta1=BETA1, beta2=BETA2, epsilon=EPSILON)
)


def step(state, gradient, count, factor=1.0, apply=True):
    return update(
        *state,
        jnp.asarray(gradient, jnp.float32),
        factor=jnp.float32(factor),
        apply=jnp.asarray(apply),
        count=jnp.int32(count),
        learning_rate=jnp.float32(RATE),
    )


def start(seed=0):
    parameter = jnp.asarray(np.random.default_rng(seed).normal(size=(5, 7)), jnp.float32)
    return parameter, jnp.zeros_like(parameter), jnp.zeros_like(parameter)


def test_ten_updates_equal_algorithm_2_in_float64():
    random = np.random.default_rng(1)
    state, factor = start(), 0.25
    theta, m, v = (np.float64(x) for x in state)
    for t in range(1, 11):
        gradient = random.normal(size=(5, 7)).astype(np.float32)
        state = step(state, gradient, t, factor)
        g = factor * np.float64(gradient)
        m = BETA1 * m + (1 - BETA1) * g
        v = BETA2 * v + (1 - BETA2) * g**2
        m_hat, v_hat = m / (1 - BETA1**t), v / (1 - BETA2**t)
        theta = theta - RATE * (m_hat / (np.sqrt(v_hat) + EPSILON) + DECAY * theta)
    for ours, theirs in zip(state, (theta, m, v), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_an_update_that_is_not_to_be_applied_changes_nothing_even_with_a_nan():
    state = step(start(), np.ones((5, 7)), 1)
    after = step(state, np.full((5, 7), np.nan), 2, apply=False)
    for before, same in zip(state, after, strict=True):
        np.testing.assert_array_equal(before, same)
