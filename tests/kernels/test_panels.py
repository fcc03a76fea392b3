"""Products with weights in panels are held to float64 NumPy, and do not depend on other rows."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fugaku_jax.kernels.panels import GROUP, WIDTH, lay_out, panel_product, quantise

SIZES = st.sampled_from([0, 1, 2, 3, 7, 13, 16, 61, 64, 97, 131])
DTYPES = ("float32", "bfloat16", "float16")


def draw(seed, shape, dtype):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


@functools.partial(jax.jit, static_argnames="dtype")
def multiply(x, weights, layer, bias, dtype, scales=None, count=None):
    panels, columns = lay_out(weights), weights.shape[2]
    scales = None if scales is None else lay_out(scales)
    layer = jnp.asarray(layer, jnp.int32)
    return panel_product(x, panels, layer, columns, bias, dtype, scales, count)


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


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(
    rows=SIZES,
    depth=SIZES,
    columns=SIZES,
    dtype=st.sampled_from(DTYPES),
    biased=st.booleans(),
    layer=st.integers(0, 2),
)
@example(rows=1, depth=601, columns=70, dtype="bfloat16", biased=True, layer=2)
@example(rows=3, depth=768, columns=130, dtype="bfloat16", biased=False, layer=1)
@example(rows=200, depth=300, columns=65, dtype="float32", biased=True, layer=1)
def test_a_product_with_int8_is_as_near_to_float64_as_its_rounding(
    implementation, rows, depth, columns, dtype, biased, layer
):
    x = np.array(draw(0, (rows, depth), "float32"))
    x[:, depth // 3 : depth // 3 + 1] *= 500  # spoils its own group alone
    x = jnp.asarray(x, dtype)
    weights, scales = quantise(draw(1, (3, depth, columns), "float32"))
    bias = draw(2, (3, columns), "float32") if biased else None
    got = multiply(x, weights, layer, bias, "float32", scales)
    assert got.dtype == "float32"
    assert got.shape == (rows, columns)
    exact = np.float64(weights[layer]) * np.float64(scales[layer])
    want = np.float64(x) @ exact + (0 if bias is None else np.float64(bias[layer]))
    # Half a step of each of a row's numbers: their groups' greatest by 127.
    filled = np.pad(np.abs(np.float64(x)), ((0, 0), (0, -depth % GROUP)))
    steps = filled.reshape(rows, filled.shape[1] // GROUP, GROUP).max(2, initial=0) / 127
    steps = np.repeat(steps, GROUP, 1)[:, :depth]
    bound = 0.5001 * steps @ np.abs(exact) + 1e-6 * (np.abs(want) + 1)
    assert np.all(np.abs(got - want) <= bound), implementation


@pytest.mark.slow
def test_int8_products_of_whole_numbers_are_exact(implementation):
    whole = np.random.default_rng(0).integers(-127, 128, (21, 200))
    whole[:, ::GROUP] = 127  # so that a step is 1 in every group
    matrix = np.random.default_rng(1).integers(-127, 128, (1, 200, 90))
    given = jnp.asarray(whole, "float32"), jnp.asarray(matrix, "int8")
    for rows in (1, 3, 21):  # few and many are multiplied by other instructions
        got = multiply(given[0][:rows], given[1], 0, None, "float32", jnp.ones((1, 1, 90)))
        np.testing.assert_array_equal(got, (whole[:rows] @ matrix)[0], err_msg=implementation)


def test_int8_weights_are_the_nearest_and_a_column_of_zeros_stays_so():
    weights = np.array(draw(0, (2, 30, 5), "float32"))
    weights[1, :, 3] = 0
    whole, scales = quantise(jnp.asarray(weights))
    assert whole.dtype == "int8"
    assert np.abs(np.int32(whole)).max((0, 1)).min() == 127
    assert not np.asarray(whole)[1, :, 3].any()
    assert np.all(np.abs(np.float64(whole) * scales - weights) <= np.float64(scales) * 0.5001)


@pytest.mark.usefixtures("implementation")
def test_what_is_not_finite_is_not_hidden_by_int8():
    weights, scales = quantise(draw(1, (1, 100, 10), "float32"))
    x = np.ones((3, 100), np.float32)
    x[0, 70], x[1, 3] = np.nan, -np.inf
    got = np.asarray(multiply(jnp.asarray(x), weights, 0, None, "float32", scales))
    assert not np.isfinite(got[:2]).any()
    assert np.isfinite(got[2]).all()


@pytest.mark.parametrize("dtype", [*DTYPES, "int8"])
def test_a_row_is_the_same_bit_by_bit_among_any_others(library, dtype):
    x, scales = draw(0, (300, 530), "bfloat16" if dtype == "int8" else dtype), None
    weights = draw(1, (1, 530, 100), "float32" if dtype == "int8" else dtype)
    if dtype == "int8":
        weights, scales = quantise(weights)
    everything = np.asarray(multiply(x, weights, 0, None, "float32", scales))
    for start, stop in ((0, 1), (5, 7), (3, 19), (250, 300)):
        some = multiply(x[start:stop], weights, 0, None, "float32", scales)
        np.testing.assert_array_equal(some, everything[start:stop], err_msg=library)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rows_that_do_not_count_become_zeros(implementation, dtype):
    x, weights = draw(0, (40, 70), dtype), draw(1, (2, 70, 130), dtype)
    bias = draw(2, (2, 130), "float32")
    everything = np.asarray(multiply(x, weights, 1, bias, "float32"))
    for count in (0, 1, 17, 40, 41, 2**31 - 1, -1):
        got = np.asarray(multiply(x, weights, 1, bias, "float32", count=jnp.int32(count)))
        first = min(max(count, 0), 40)
        np.testing.assert_array_equal(got[:first], everything[:first], err_msg=implementation)
        assert not got[first:].any()


@pytest.mark.parametrize(("dtype", "together"), [("float16", 1), ("bfloat16", 2), ("int8", 4)])
def test_panels_hold_the_columns_and_zeros(dtype, together):
    weights = jnp.asarray(100 * draw(0, (2, 7, WIDTH + 5), "float32"), dtype)
    panels = np.asarray(lay_out(weights))
    assert panels.shape == (2, 2, {1: 7, 2: 16, 4: 16}[together], WIDTH * together)
    found = panels.reshape(2, 2, -1, WIDTH, together).swapaxes(3, 4).reshape(2, 2, -1, WIDTH)
    np.testing.assert_array_equal(found[:, 0, :7], weights[:, :, :WIDTH])
    np.testing.assert_array_equal(found[:, 1, :7, :5], weights[:, :, WIDTH:])
    assert not found[:, 1, :, 5:].any()
    assert not found[:, :, 7:].any()


@pytest.mark.usefixtures("library")
def test_a_layer_that_is_not_there_is_refused():
    x, weights = draw(0, (2, 3), "float32"), draw(1, (2, 3, 4), "float32")
    for layer in (-1, 2):
        with pytest.raises(jax.errors.JaxRuntimeError, match="no such layer"):
            multiply(x, weights, layer, None, "float32").block_until_ready()
