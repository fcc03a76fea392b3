"""The activation, held to its formula in float64 and to its twin."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fugaku_jax.kernels import native
from fugaku_jax.kernels.activation import gelu, reference_gelu, swiglu

POINTS = np.linspace(-8, 8, 1001)
SIZES = st.lists(st.sampled_from([0, 1, 2, 3, 7, 13, 16, 31, 65, 97]), max_size=3)
# One rounding of the result, beside that of the arithmetic in fp32.
ROUNDING = {"float32": 1e-6, "bfloat16": 2**-8, "float16": 2**-11}


def in_float64(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def slope_in_float64(x):
    tanh = np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))
    inner = np.sqrt(2 / np.pi) * (1 + 3 * 0.044715 * x**2)
    return 0.5 * (1 + tanh) + 0.5 * x * (1 - tanh**2) * inner


def gradient(x, dy):
    return jax.vjp(gelu, x)[1](dy)[0]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ROUNDING)
def test_gelu_equals_the_formula_in_float64(implementation, dtype):  # noqa: ARG001
    @settings(max_examples=12, deadline=None)
    @given(SIZES, st.integers(0, 99))
    def check(shape, seed):
        x = jnp.asarray(np.random.default_rng(seed).normal(0, 3, shape), dtype)
        exact = in_float64(np.asarray(x, np.float64))
        ours = jax.jit(gelu)(x)
        assert ours.dtype == dtype
        # The reference computes in the narrow type, several roundings.
        slack = ROUNDING[dtype] * (1 if native.enabled() or dtype == "float32" else 8)
        np.testing.assert_allclose(np.float64(ours), exact, atol=slack, rtol=slack)

    check()


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ROUNDING)
def test_its_gradient_equals_the_slope_in_float64(library, dtype):  # noqa: ARG001
    @settings(max_examples=8, deadline=None)
    @given(SIZES)
    @example([1001])
    def check(shape):
        points = np.linspace(-8, 8, math.prod(shape)).reshape(shape)
        x, dy = (jnp.asarray(a, dtype) for a in (points, np.cos(points)))
        exact = slope_in_float64(np.asarray(x, np.float64)) * np.asarray(dy, np.float64)
        ours = jax.jit(gradient)(x, dy)
        assert ours.dtype == dtype
        slack = ROUNDING[dtype]
        np.testing.assert_allclose(np.float64(ours), exact, atol=slack, rtol=slack)

    check()


def test_the_gradient_of_the_twin_equals_the_slope_in_float64():
    ours = jax.vmap(jax.grad(reference_gelu))(jnp.asarray(POINTS, jnp.float32))
    np.testing.assert_allclose(ours, slope_in_float64(POINTS), atol=1e-5)


def test_far_below_zero_small_values_keep_their_accuracy(library):  # noqa: ARG001
    x = -np.linspace(0.001, 5, 4001).astype(np.float32)
    wide = np.float64(x)
    u = np.sqrt(2 / np.pi) * (wide + 0.044715 * wide**3)
    # The exponential of 20 makes a rounding of its argument 20 times as large.
    np.testing.assert_allclose(jax.jit(gelu)(x), wide / (1 + np.exp(-2 * u)), rtol=3e-6)


def test_nan_and_infinity_go_through_as_in_the_twin(library):  # noqa: ARG001
    x = jnp.float32([np.nan, np.inf, -np.inf, 0, -0.0, 1e20, -1e20, 1e15, -1e15, 30, -30])
    np.testing.assert_allclose(jax.jit(gelu)(x), reference_gelu(x), rtol=1e-6)
    ours, twins = (jax.vmap(jax.grad(f))(x) for f in (gelu, reference_gelu))
    np.testing.assert_allclose(ours, twins, rtol=1e-6)


def test_another_type_is_an_error_of_the_call(library):  # noqa: ARG001
    with pytest.raises(Exception, match="must be float32, float16 or bfloat16"):
        jax.jit(gelu)(jnp.ones(3, jnp.float8_e4m3fn))


@pytest.mark.parametrize("dtype", ROUNDING)
def test_swiglu_equals_its_formula_in_float64(dtype):
    x = jnp.asarray(np.random.default_rng(0).normal(0, 3, (3, 5, 2, 33)), dtype)
    gate, value = np.moveaxis(np.asarray(x, np.float64), -2, 0)
    ours = jax.jit(swiglu)(x)
    assert ours.dtype == dtype
    exact = gate / (1 + np.exp(-gate)) * value
    np.testing.assert_allclose(np.float64(ours), exact, atol=1e-6, rtol=4 * ROUNDING[dtype])
