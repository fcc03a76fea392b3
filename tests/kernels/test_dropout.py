"""Dropout: its share, its scale and its key."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fugaku_jax.kernels.dropout import dropout


@settings(max_examples=15, deadline=None)
@given(st.floats(0.001, 0.99), st.integers(0, 2**31))
def test_the_share_dropped_is_the_rate_and_the_rest_is_scaled(rate, seed):
    count = 1 << 16
    dropped = np.asarray(dropout(jnp.full(count, 3.0), rate, jax.random.key(seed)))
    zeros = np.count_nonzero(dropped == 0)
    # Six deviations of the binomial, and one for the rate's rounding to 1/65,536.
    assert abs(zeros - rate * count) < 6 * math.sqrt(count * rate * (1 - rate)) + 1
    rounded = round(rate * 65_536) / 65_536
    np.testing.assert_allclose(dropped[dropped != 0], 3.0 / (1 - rounded), rtol=1e-6)


def test_the_same_key_gives_the_same_mask_and_another_key_another():
    x = jnp.ones((8, 32))
    first = dropout(x, 0.5, jax.random.key(1))
    np.testing.assert_array_equal(first, dropout(x, 0.5, jax.random.key(1)))
    assert not np.array_equal(first, dropout(x, 0.5, jax.random.key(2)))


def test_no_key_or_no_rate_keeps_everything():
    x = jnp.arange(6.0)
    np.testing.assert_array_equal(dropout(x, 0.5, None), x)
    np.testing.assert_array_equal(dropout(x, 0.0, jax.random.key(0)), x)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_the_type_stays_and_the_gradient_has_the_same_mask(dtype):
    x = jnp.ones(512, dtype)
    out, pull = jax.vjp(lambda x: dropout(x, 0.25, jax.random.key(0)), x)
    (gradient,) = pull(jnp.ones_like(out))
    assert out.dtype == gradient.dtype == dtype
    np.testing.assert_array_equal(out, gradient)
