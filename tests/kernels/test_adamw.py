"""AdamW, held to the paper's algorithm in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fugaku_jax.kernels.adamw import adamw, sum_of_squares

RATE, DECAY, BETA1, BETA2, EPSILON = 0.01, 0.1, 0.9, 0.95, 1e-8
CONSTANTS = {"weight_decay": DECAY, "beta1": BETA1, "beta2": BETA2, "epsilon": EPSILON}

update = jax.jit(functools.partial(adamw, **CONSTANTS))


def step(state, gradient, count, factor=1.0, apply=True):
    return update(
        *state,
        gradient,
        factor=jnp.float32(factor),
        apply=jnp.asarray(apply),
        count=jnp.int32(count),
        learning_rate=jnp.float32(RATE),
    )


def start(shape=(5, 7)):
    parameter = jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)
    return parameter, jnp.zeros_like(parameter), jnp.zeros_like(parameter)


def updated_in_float64(state, gradient, t, factor):
    theta, m, v = state
    g = factor * np.asarray(gradient, np.float64)
    m = BETA1 * m + (1 - BETA1) * g
    v = BETA2 * v + (1 - BETA2) * g**2
    m_hat, v_hat = m / (1 - BETA1**t), v / (1 - BETA2**t)
    return theta - RATE * (m_hat / (np.sqrt(v_hat) + EPSILON) + DECAY * theta), m, v


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_ten_updates_equal_algorithm_2_in_float64(implementation, dtype):  # noqa: ARG001
    random = np.random.default_rng(1)
    state, factor = start((5, 71)), 0.25
    exact = tuple(np.float64(x) for x in state)
    for t in range(1, 11):
        gradient = jnp.asarray(random.normal(size=(5, 71)), dtype)
        state = step(state, gradient, t, factor)
        exact = updated_in_float64(exact, gradient, t, factor)
    for ours, theirs in zip(state, exact, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_an_update_of_any_shape(library):  # noqa: ARG001
    @settings(max_examples=10, deadline=None)
    @given(st.lists(st.sampled_from([0, 1, 3, 13, 16, 97]), max_size=3))
    def check(shape):
        gradient = jnp.asarray(np.random.default_rng(1).normal(size=shape), jnp.float32)
        ours = step(start(shape), gradient, 1)
        exact = updated_in_float64(tuple(np.float64(x) for x in start(shape)), gradient, 1, 1.0)
        for x, y in zip(ours, exact, strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)

    check()


def test_an_update_that_is_not_to_be_applied_changes_nothing_even_with_a_nan(
    implementation,  # noqa: ARG001
):
    state = step(start(), jnp.ones((5, 7)), 1)
    after = step(state, jnp.full((5, 7), np.nan), 2, apply=False)
    for before, same in zip(state, after, strict=True):
        np.testing.assert_array_equal(before, same)


def test_odd_gradients_do_what_they_do_in_the_reference(implementation):  # noqa: ARG001
    gradient = jnp.float32([np.nan, np.inf, -np.inf, 3e19, -3e19, 0, 1e-30])
    parameter, mean, square = step(start((7,)), gradient, 1)
    finite = [False, False, False, True, True, True, True]
    assert np.isfinite(parameter).tolist() == finite
    assert np.isfinite(mean).tolist() == finite
    # The square of 3e19 is no float; infinity divides the step to nothing.
    assert np.isfinite(square).tolist() == [False] * 5 + [True] * 2
    np.testing.assert_allclose(parameter[3:6], start((7,))[0][3:6] * (1 - RATE * DECAY), rtol=1e-6)


def test_with_donation_nothing_is_copied(library):  # noqa: ARG001
    shape = (64, 1024)
    state = start(shape)
    arguments = {
        "factor": jnp.float32(1),
        "apply": jnp.asarray(True),
        "count": jnp.int32(1),
        "learning_rate": jnp.float32(RATE),
    }
    donating = jax.jit(functools.partial(adamw, **CONSTANTS), donate_argnums=(0, 1, 2))
    as_in_a_run = {"xla_cpu_use_fusion_emitters": True}
    compiled = donating.lower(*state, jnp.ones(shape), **arguments).compile(as_in_a_run)
    assert "copy" not in compiled.as_text()
    assert compiled.memory_analysis().temp_size_in_bytes < 1024
    places = [x.unsafe_buffer_pointer() for x in state]
    assert [
        x.unsafe_buffer_pointer() for x in compiled(*state, jnp.ones(shape), **arguments)
    ] == places


def test_parameters_of_another_type_are_an_error_of_the_call(library):  # noqa: ARG001
    narrow = [x.astype(jnp.bfloat16) for x in start()]
    with pytest.raises(Exception, match="adamw: parameter and moments must be fp32"):
        step(narrow, jnp.ones((5, 7)), 1)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_sum_of_squares_equals_float64(implementation, dtype):  # noqa: ARG001
    @settings(max_examples=8, deadline=None)
    @given(st.lists(st.sampled_from([0, 1, 3, 13, 16, 97]), max_size=3))
    @example([50_021])
    def check(shape):
        x = jnp.asarray(np.random.default_rng(0).normal(size=shape), dtype)
        exact = (np.asarray(x, np.float64) ** 2).sum()
        np.testing.assert_allclose(jax.jit(sum_of_squares)(x), exact, rtol=1e-5)

    check()


@pytest.mark.parametrize("odd", [np.nan, np.inf, 3e19])
def test_a_sum_of_squares_with_an_odd_number_is_not_finite(implementation, odd):  # noqa: ARG001
    assert not np.isfinite(jax.jit(sum_of_squares)(jnp.ones(20_000).at[17].set(odd)))
