"""Products with weights in panels are held to float64 NumPy, and do not depend on other rows."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fugaku_jax.kernels.panels import WIDTH, lay_out, panel_product

SIZES = st.sampled_from([0, 1, 2, 3, 7, 13, 16, 61, 64, 97, 131])
DTYPES = ("float32", "bfloat16", "float16")


def draw(seed, shape, dtype):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


@functools.partial(jax.jit, static_argnames="dtype")
def multiply(x, weights, layer, bias, dtype):
    panels, columns = lay_out(weights), weights.shape[2]
    return panel_product(x, panels, jnp.asarray(layer, jnp.int32), columns, bias, dtype)


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(
    rows=SIZES,
    depth=SIZES,
    columns=SIZES,
    dtype=st.sampled_from(DTYPES),
    wide=st.booleans(),
    biased=st.booleans(),
    layer=st.integers(0, 2),
)
@example(rows=5, depth=601, columns=70, dtype="bfloat16", wide=False, biased=True, layer=2)
@example(rows=200, depth=300, columns=65, dtype="float32", wide=False, biased=True, layer=1)
@example(rows=1, depth=2053, columns=1, dtype="float16", wide=True, biased=False, layer=0)
def test_a_product_is_that_of_float64(
    implementation, rows, depth, columns, dtype, wide, biased, layer
):
    x, weights = draw(0, (rows, depth), dtype), draw(1, (3, depth, columns), dtype)
    bias = draw(2, (3, columns), "float32") if biased else None
    result = "float32" if wide else dtype
    got = multiply(x, weights, layer, bias, result)
    assert got.dtype == result
    assert got.shape == (rows, columns)
    want = np.float64(x) @ np.float64(weights[layer])
    want += 0 if bias is None else np.float64(bias[layer])
    # Rounding of the sums, which are of fp32 whatever the operands are, then that of the result.
    bound = 4e-6 * np.sqrt(depth + 1) + float(jnp.finfo(result).eps) * np.abs(want)
    assert np.all(np.abs(np.float64(got) - want) <= bound), implementation


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_is_the_same_bit_by_bit_among_any_others(library, dtype):
    x, weights = draw(0, (300, 530), dtype), draw(1, (1, 530, 100), dtype)
    everything = np.asarray(multiply(x, weights, 0, None, "float32"))
    for start, stop in ((0, 1), (5, 7), (3, 19), (250, 300)):
        some = multiply(x[start:stop], weights, 0, None, "float32")
        np.testing.assert_array_equal(some, everything[start:stop], err_msg=library)


def test_panels_hold_the_columns_and_zeros():
    weights = draw(0, (2, 3, WIDTH + 5), "float32")
    panels = np.asarray(lay_out(weights))
    assert panels.shape == (2, 2, 3, WIDTH)
    np.testing.assert_array_equal(panels[:, 0], weights[:, :, :WIDTH])
    np.testing.assert_array_equal(panels[:, 1, :, :5], weights[:, :, WIDTH:])
    assert not panels[:, 1, :, 5:].any()


@pytest.mark.usefixtures("library")
def test_a_layer_that_is_not_there_is_refused():
    x, weights = draw(0, (2, 3), "float32"), draw(1, (2, 3, 4), "float32")
    for layer in (-1, 2):
        with pytest.raises(jax.errors.JaxRuntimeError, match="no such layer"):
            multiply(x, weights, layer, None, "float32").block_until_ready()
