"""Layer normalisation, held to NumPy in float64 and to its twin."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fugaku_jax.kernels.norm import layer_norm, reference_layer_norm, reference_rms_norm, rms_norm

EPSILON = 1e-5
WIDTHS = [1, 2, 3, 13, 16, 31, 64, 65, 97, 211]
norm = jax.jit(layer_norm, static_argnums=3)


def in_float64(x, scale, bias, epsilon):
    x, scale, bias = (np.asarray(a, np.float64) for a in (x, scale, bias))
    variance = x.var(-1, keepdims=True)
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(variance + epsilon) * scale + bias


def gradients_in_float64(x, scale, dy, epsilon):
    x, scale, dy = (np.asarray(a, np.float64) for a in (x, scale, dy))
    inverse = 1 / np.sqrt(x.var(-1, keepdims=True) + epsilon)
    normal = (x - x.mean(-1, keepdims=True)) * inverse
    g = dy * scale
    dx = inverse * (g - g.mean(-1, keepdims=True) - normal * (g * normal).mean(-1, keepdims=True))
    rows = tuple(range(x.ndim - 1))
    return dx, (dy * normal).sum(rows), dy.sum(rows)


def operands(shape, offset=0.0, seed=0):
    random = np.random.default_rng(seed)
    x = random.normal(offset, 1, shape).astype(np.float32)
    scale, bias = random.normal(size=(2, shape[-1])).astype(np.float32)
    return jnp.asarray(x), jnp.asarray(scale), jnp.asarray(bias)


@jax.jit
def gradients(x, scale, bias, dy):
    return jax.vjp(lambda *a: layer_norm(*a, EPSILON), x, scale, bias)[1](dy)


def test_layer_norm_equals_numpy_for_any_shape(implementation):  # noqa: ARG001
    @settings(max_examples=12, deadline=None)
    @given(
        st.lists(st.integers(0, 4), max_size=2),
        st.sampled_from(WIDTHS),
        st.floats(1e-6, 0.1),
    )
    def check(batch, width, epsilon):
        x, scale, bias = operands((*batch, width))
        ours = norm(x, scale, bias, epsilon)
        np.testing.assert_allclose(ours, in_float64(x, scale, bias, epsilon), atol=1e-4)

    check()


@pytest.mark.slow
def test_the_gradients_equal_those_in_float64_for_any_shape(implementation):  # noqa: ARG001
    @settings(max_examples=8, deadline=None)
    @given(st.lists(st.sampled_from([0, 1, 3, 17, 31]), max_size=2), st.sampled_from(WIDTHS))
    @example([1031], 7)
    @example([2], 1100)
    def check(batch, width):
        x, scale, bias = operands((*batch, width))
        dy = operands((*batch, width), seed=1)[0]
        ours = gradients(x, scale, bias, dy)
        exact = gradients_in_float64(x, scale, dy, EPSILON)
        # Sums over rows: an fp32 rounding of each term.
        slack = 1e-6 * max(10, math.prod(batch))
        for ours_, exact_ in zip(ours, exact, strict=True):
            np.testing.assert_allclose(ours_, exact_, atol=slack, rtol=1e-4)

    check()


def test_a_large_mean_does_not_hide_the_variance(implementation):  # noqa: ARG001
    x, scale, bias = operands((4, 67), offset=1000.0)
    # x itself is known to 1000 * 2**-24; E[x^2] - E[x]^2 in fp32 would be off by more than 0.05.
    np.testing.assert_allclose(
        norm(x, scale, bias, EPSILON), in_float64(x, scale, bias, EPSILON), atol=1e-3
    )


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_narrow_input_gives_the_wide_result_rounded_once(implementation, dtype):  # noqa: ARG001
    x, scale, bias = operands((4, 61))
    x = x.astype(dtype)
    ours = norm(x, scale, bias, EPSILON)
    wide = norm(x.astype(jnp.float32), scale, bias, EPSILON)
    assert ours.dtype == dtype
    np.testing.assert_array_equal(ours, wide.astype(dtype))
    dy = operands((4, 61), seed=1)[0].astype(dtype)
    narrow = gradients(x, scale, bias, dy)
    wide = gradients(x.astype(jnp.float32), scale, bias, dy.astype(jnp.float32))
    assert [g.dtype for g in narrow] == [dtype, jnp.float32, jnp.float32]
    np.testing.assert_array_equal(narrow[0], wide[0].astype(dtype))
    for ours, exact in zip(narrow[1:], wide[1:], strict=True):
        np.testing.assert_allclose(ours, exact, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_a_row_with_an_odd_number_is_nan_and_no_other(library, odd):  # noqa: ARG001
    x, scale, bias = operands((3, 35))
    x = x.at[1, 33].set(odd)
    ours, twins = norm(x, scale, bias, EPSILON), reference_layer_norm(x, scale, bias, EPSILON)
    assert np.isnan(ours[1]).all()
    np.testing.assert_allclose(ours, twins, rtol=1e-5, atol=1e-5)


def test_gradients_equal_the_twins_under_scan_and_checkpoint(library):  # noqa: ARG001
    x, scale, bias = operands((2, 5, 40))

    def loss(function):
        def layer(x, _):
            return jax.checkpoint(lambda x: x + function(x, scale, bias, EPSILON))(x), None

        return lambda x: (jax.lax.scan(layer, x, None, length=3)[0] ** 2).sum()

    ours, twins = (
        jax.jit(jax.grad(loss(function)))(x) for function in (layer_norm, reference_layer_norm)
    )
    np.testing.assert_allclose(ours, twins, rtol=1e-3, atol=1e-3 * np.abs(twins).max())


def test_another_type_is_an_error_of_the_call(library):  # noqa: ARG001
    x, scale, bias = operands((3, 8))
    with pytest.raises(Exception, match="must be float32, float16 or bfloat16"):
        norm(x.astype(jnp.float8_e4m3fn), scale, bias, EPSILON)


@jax.jit
def rms_and_gradients(x, scale, dy):
    y, back = jax.vjp(lambda *a: rms_norm(*a, EPSILON), x, scale)
    return y, *back(dy)


@pytest.mark.slow
def test_rms_norm_and_its_gradients_equal_those_in_float64_for_any_shape(implementation):  # noqa: ARG001
    @settings(max_examples=12, deadline=None)
    @given(st.lists(st.sampled_from([0, 1, 3, 17, 31]), max_size=2), st.sampled_from(WIDTHS))
    @example([1031], 7)
    def check(batch, width):
        x, scale, _ = operands((*batch, width), offset=0.5)
        dy = operands((*batch, width), seed=1)[0]
        wide, factor, upstream = (np.asarray(a, np.float64) for a in (x, scale, dy))
        inverse = 1 / np.sqrt(np.square(wide).mean(-1, keepdims=True) + EPSILON)
        normal, g = wide * inverse, upstream * factor
        dx = inverse * (g - normal * (g * normal).mean(-1, keepdims=True))
        d_scale = (upstream * normal).sum(tuple(range(x.ndim - 1)))
        slack = 1e-6 * max(10, math.prod(batch))
        exact = normal * factor, dx, d_scale
        for ours, exact_ in zip(rms_and_gradients(x, scale, dy), exact, strict=True):
            np.testing.assert_allclose(ours, exact_, atol=slack, rtol=1e-4)

    check()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_rms_norm_of_narrow_input_is_the_twins(library, dtype):  # noqa: ARG001
    x, scale, _ = operands((4, 61))
    x = x.astype(dtype).at[1, 7].set(np.nan)
    ours, twins = rms_norm(x, scale, EPSILON), reference_rms_norm(x, scale, EPSILON)
    assert ours.dtype == dtype
    eps = float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(np.float32(ours), np.float32(twins), rtol=eps, atol=eps)
