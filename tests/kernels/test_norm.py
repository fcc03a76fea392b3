"""Layer normalisation, held to NumPy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fugaku_jax.kernels.norm import layer_norm


def in_float64(x, scale, bias, epsilon):
    x, scale, bias = (np.asarray(a, np.float64) for a in (x, scale, bias))
    variance = x.var(-1, keepdims=True)
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(variance + epsilon) * scale + bias


def operands(shape, offset=0.0):
    random = np.random.default_rng(0)
    x = random.normal(offset, 1, shape).astype(np.float32)
    scale, bias = random.normal(size=(2, shape[-1])).astype(np.float32)
    return jnp.asarray(x), jnp.asarray(scale), jnp.asarray(bias)


@settings(max_examples=6, deadline=None)
@given(st.lists(st.integers(1, 4), max_size=2), st.integers(2, 65), st.floats(1e-6, 0.1))
def test_layer_norm_equals_numpy_for_any_shape(batch, width, epsilon):
    x, scale, bias = operands((*batch, width))
    ours = jax.jit(layer_norm, static_argnums=3)(x, scale, bias, epsilon)
    np.testing.assert_allclose(ours, in_float64(x, scale, bias, epsilon), atol=1e-4)


def test_a_large_mean_does_not_hide_the_variance():
    x, scale, bias = operands((4, 64), offset=1000.0)
    # x itself is known to 1000 * 2**-24; E[x^2] - E[x]^2 in fp32 would be off by more than 0.05.
    np.testing.assert_allclose(
        layer_norm(x, scale, bias, 1e-5), in_float64(x, scale, bias, 1e-5), atol=1e-3
    )


def test_the_gradient_equals_the_slope_in_float64():
    x, scale, bias = operands((3, 16))
    random = np.random.default_rng(1)
    upstream, step = random.normal(size=(2, 3, 16))
    upward = jax.grad(lambda x: (layer_norm(x, scale, bias, 1e-5) * upstream).sum())
    gradient = np.float64(jax.jit(upward)(x))

    def value(t):
        return (in_float64(np.float64(x) + t * step, scale, bias, 1e-5) * upstream).sum()

    slope = (value(1e-4) - value(-1e-4)) / 2e-4
    np.testing.assert_allclose(np.sum(gradient * step), slope, rtol=1e-4)


def test_narrow_input_gives_the_wide_result_rounded_once():
    x, scale, bias = operands((4, 64))
    x = x.astype(jnp.bfloat16)
    ours = layer_norm(x, scale, bias, 1e-5)
    wide = layer_norm(x.astype(jnp.float32), scale, bias, 1e-5)
    assert ours.dtype == jnp.bfloat16
    np.testing.assert_array_equal(ours, wide.astype(jnp.bfloat16))
