"""Attention, held to NumPy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fugaku_jax.kernels import attention as kernel
from fugaku_jax.kernels.attention import attention
from fugaku_jax.kernels.dropout import Dropout

pytestmark = pytest.mark.usefixtures("implementation")


@pytest.fixture(scope="module", autouse=True)
def small_blocks():
    """Let blocks of queries be so small that short sequences have several."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernel, "MIN_BLOCK", 4)
        yield


def operands(batch, length, heads, head_dim, seed=0):
    random = np.random.default_rng(seed)
    shape = (3, batch, length, heads, head_dim)
    return tuple(jnp.asarray(x) for x in random.normal(size=shape).astype(np.float32))


def in_float64(q, k, v, segments=None):
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    length = q.shape[1]
    scores = np.einsum("bthk,bshk->bhts", q, k) / np.sqrt(q.shape[-1])
    visible = np.tril(np.ones((length, length), bool))[None]
    if segments is not None:
        visible = visible & (segments[:, :, None] == segments[:, None, :])
    scores = np.where(visible[:, None], scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return np.einsum("bhts,bshk->bthk", weights, v)


@settings(max_examples=5, deadline=None)
@given(
    st.integers(1, 3),
    st.integers(1, 17),
    st.integers(1, 4),
    st.sampled_from([1, 8, 144]),
    st.data(),
)
def test_attention_equals_numpy_for_any_shape_and_segments(batch, length, heads, head_dim, data):
    q, k, v = operands(batch, length, heads, head_dim)
    starts = data.draw(st.lists(st.booleans(), min_size=length, max_size=length))
    segments = np.tile(np.cumsum(starts, dtype=np.int32), (batch, 1))
    whole, parted = jax.jit(lambda *x: (attention(*x[:3]), attention(*x)))(q, k, v, segments)
    np.testing.assert_allclose(whole, in_float64(q, k, v), atol=1e-5)
    np.testing.assert_allclose(parted, in_float64(q, k, v, segments), atol=1e-5)


def test_the_gradient_equals_the_slope_in_float64():
    q, k, v = operands(1, 5, 2, 4)
    random = np.random.default_rng(1)
    upstream, *direction = random.normal(size=(4, 1, 5, 2, 4))
    upward = jax.grad(lambda *x: (attention(*x) * upstream).sum(), (0, 1, 2))
    gradients = jax.jit(upward)(q, k, v)

    def value(t):
        moved = [np.float64(x) + t * d for x, d in zip((q, k, v), direction, strict=True)]
        return (in_float64(*moved) * upstream).sum()

    slope = (value(1e-4) - value(-1e-4)) / 2e-4
    ours = sum(np.sum(np.float64(g) * d) for g, d in zip(gradients, direction, strict=True))
    np.testing.assert_allclose(ours, slope, rtol=1e-4)


def test_later_positions_change_nothing_before_them():
    q, k, v = operands(2, 8, 2, 4)
    late = (slice(None), slice(5, None))
    before = jax.jit(attention)(q, k, v)
    after = jax.jit(attention)(*(x.at[late].add(9.0) for x in (q, k, v)))
    np.testing.assert_array_equal(before[:, :5], after[:, :5])
    assert np.all(np.asarray(before[:, 5:] != after[:, 5:]).any(-1))


def test_bf16_operands_give_bf16_close_to_float64():
    q, k, v = (x.astype(jnp.bfloat16) for x in operands(2, 16, 2, 8))
    ours = jax.jit(attention)(q, k, v)
    assert ours.dtype == jnp.bfloat16
    # Weights and result are rounded to 8 bits.
    np.testing.assert_allclose(np.float32(ours), in_float64(q, k, v), atol=0.03)


@pytest.mark.slow
def test_dropout_keeps_the_mean_and_follows_its_key():
    q, k, v = operands(2, 8, 2, 4)
    drop = jax.jit(
        lambda key: attention(q, k, v, dropout=Dropout(key, sequence_length=8), dropout_rate=0.25)
    )
    keys = jax.random.split(jax.random.key(0), 4096)
    np.testing.assert_array_equal(drop(keys[0]), drop(keys[0]))
    assert not np.array_equal(drop(keys[0]), drop(keys[1]))
    many = jax.vmap(drop)(keys)
    error = many.std(0) / np.sqrt(len(keys))
    # Six deviations of the mean, for 512 elements.
    assert np.all(np.abs(many.mean(0) - attention(q, k, v)) < 6 * error + 1e-6)


def test_the_size_of_the_blocks_changes_nothing(monkeypatch):
    q, k, v = operands(1, 130, 2, 8)
    segments = jnp.asarray(np.repeat([0, 1, 2], (40, 50, 40))[None], jnp.int32)
    blocked = jax.jit(attention)(q, k, v, segments)
    monkeypatch.setattr(kernel, "MIN_BLOCK", 130)
    whole = jax.jit(lambda *x: attention(*x))(q, k, v, segments)
    np.testing.assert_allclose(blocked, whole, atol=1e-6)
    np.testing.assert_allclose(whole, in_float64(q, k, v, np.asarray(segments)), atol=1e-5)


@pytest.mark.slow
def test_masks_do_not_depend_on_the_size_of_the_blocks(monkeypatch):
    q, k, v = operands(1, 130, 2, 8)
    masks = Dropout(jax.random.key(3), sequence_length=130)
    blocked = jax.jit(attention, static_argnums=5)(q, k, v, None, masks, 0.3)
    monkeypatch.setattr(kernel, "MIN_BLOCK", 130)
    whole = jax.jit(lambda *x: attention(*x, 0.3))(q, k, v, None, masks)
    np.testing.assert_allclose(blocked, whole, atol=1e-6)


def test_without_masks_nothing_is_dropped():
    q, k, v = operands(1, 4, 1, 4)
    np.testing.assert_array_equal(attention(q, k, v, dropout_rate=0.9), attention(q, k, v))
