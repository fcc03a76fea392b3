"""Dropout: its share, its scale, its key, and that a mask knows no parts."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.extend.random import threefry_2x32

from fugaku_jax.kernels.dropout import Dropout, _threefry


def drop(x, rate, seed):
    """Drop elements of a flat array."""
    masks = Dropout(jax.random.key(seed), sequence_length=1)
    return masks.hidden(x[None, None], rate)[0, 0]


def test_the_generator_is_jaxs_threefry():
    key = jax.random.key(12345)
    random = np.random.default_rng(0)
    high, low = (jnp.asarray(random.integers(0, 2**32, 100, np.uint32)) for _ in range(2))
    theirs = threefry_2x32(jax.random.key_data(key), jnp.concatenate([high, low]))
    np.testing.assert_array_equal(jnp.concatenate(_threefry(key, high, low)), theirs)


@settings(max_examples=15, deadline=None)
@given(st.floats(0.001, 0.99), st.integers(0, 2**31))
def test_the_share_dropped_is_the_rate_and_the_rest_is_scaled(rate, seed):
    count = 1 << 16
    dropped = np.asarray(drop(jnp.full(count, 3.0), rate, seed))
    zeros = np.count_nonzero(dropped == 0)
    # Six deviations of the binomial, and one for the rate's rounding to 1/65,536.
    assert abs(zeros - rate * count) < 6 * math.sqrt(count * rate * (1 - rate)) + 1
    rounded = round(rate * 65_536) / 65_536
    np.testing.assert_allclose(dropped[dropped != 0], 3.0 / (1 - rounded), rtol=1e-6)


def test_neighbours_along_every_dimension_are_independent():
    kept = np.asarray(Dropout(jax.random.key(0), 64).hidden(jnp.ones((64, 64, 64)), 0.5)) > 0
    for axis in range(3):
        for shift in range(1, 9):
            equal = np.mean(kept == np.roll(kept, shift, axis))
            # Six deviations of the mean of 262,144 coins.
            assert abs(equal - 0.5) < 6 * 0.5 / 512, (axis, shift)


def test_the_same_key_gives_the_same_mask_and_another_key_or_fold_another():
    x = jnp.ones((2, 8, 32))
    masks = Dropout(jax.random.key(1), 8)
    first = masks.hidden(x, 0.5)
    np.testing.assert_array_equal(first, Dropout(jax.random.key(1), 8).hidden(x, 0.5))
    assert not np.array_equal(first, Dropout(jax.random.key(2), 8).hidden(x, 0.5))
    assert not np.array_equal(first, masks.fold(0).hidden(x, 0.5))
    assert not np.array_equal(masks.fold(0).hidden(x, 0.5), masks.fold(1).hidden(x, 0.5))


@pytest.mark.slow
@pytest.mark.parametrize("row", [0, 3])
@pytest.mark.parametrize("position", [0, 5])
def test_a_part_of_a_batch_has_that_part_of_the_mask(row, position):
    key, x = jax.random.key(1), jnp.ones((6, 12, 10))
    whole = Dropout(key, 12).hidden(x, 0.5)
    part = Dropout(key, 12, jnp.int32(row), jnp.int32(position))
    np.testing.assert_array_equal(part.hidden(x[row:, position:], 0.5), whole[row:, position:])


@pytest.mark.slow
def test_a_part_of_the_attention_weights_has_that_part_of_the_mask():
    key, x = jax.random.key(1), jnp.ones((2, 3, 12, 12))
    whole = Dropout(key, 12).weights(x, 0.5, first_query=0)
    part = Dropout(key, 12, first_row=1).weights(x[1:, :, 5:, 4:], 0.5, jnp.int32(5), jnp.int32(4))
    np.testing.assert_array_equal(part, whole[1:, :, 5:, 4:])


def test_no_rate_keeps_everything():
    x = jnp.arange(6.0)
    np.testing.assert_array_equal(drop(x, 0.0, 0), x)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_the_type_stays_and_the_gradient_has_the_same_mask(dtype):
    x = jnp.ones(512, dtype)
    out, pull = jax.vjp(lambda x: drop(x, 0.25, 0), x)
    (gradient,) = pull(jnp.ones_like(out))
    assert out.dtype == gradient.dtype == dtype
    np.testing.assert_array_equal(out, gradient)
