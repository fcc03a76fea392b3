"""Attention of the newest position is held to float64 NumPy, and writes nothing but its place."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fugaku_jax.kernels.cached_attention import cached_attention

TOLERANCE = {"float32": 1e-5, "bfloat16": 2e-2, "float16": 2e-3}
"""Rounding of sums in fp32, and of the result, a mean of normal numbers."""


def draw(random, shape, dtype):
    return jnp.asarray(random.normal(size=shape), dtype)


def oracle(q, keys, values, positions):
    """Attend in float64, a row and a head at a time."""
    out = np.zeros(q.shape)
    shared = q.shape[1] // keys.shape[2]
    for row, position in enumerate(positions):
        for head in range(q.shape[1]):
            k, v = (x[row, : position + 1, head // shared] for x in (keys, values))
            scores = k @ q[row, head] / np.sqrt(q.shape[2])
            weights = np.exp(scores - scores.max())
            out[row, head] = weights @ v / weights.sum()
    return out


@pytest.mark.slow
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(
    ("heads", "groups", "width", "length"),
    [(2, 2, 64, 40), (6, 2, 80, 3), (3, 1, 144, 70), (1, 1, 5, 1)],
)
def test_the_newest_position_attends_to_all_before(
    implementation, dtype, heads, groups, width, length
):
    random = np.random.default_rng(0)
    q = draw(random, (3, heads, width), dtype)
    k, v = (draw(random, (3, groups, width), dtype) for _ in range(2))
    keys, values = (draw(random, (2, 3, length, groups, width), dtype) for _ in range(2))
    positions = np.array([0, length // 2, length - 1], np.int32)
    layer = jnp.int32(1)
    out, new_keys, new_values = cached_attention(
        q, k, v, keys, values, layer, positions_of(positions), blocks_of_their_own(3)
    )
    rows = np.arange(3)
    want_keys, want_values = np.array(keys), np.array(values)
    want_keys[1, rows, positions], want_values[1, rows, positions] = k, v
    np.testing.assert_array_equal(new_keys, want_keys, err_msg=implementation)
    np.testing.assert_array_equal(new_values, want_values)
    operands = (np.float64(x) for x in (q, want_keys[1], want_values[1]))
    want = oracle(*operands, positions)
    np.testing.assert_allclose(np.float64(out), want, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


def positions_of(positions):
    return jnp.asarray(positions, jnp.int32)


def blocks_of_their_own(rows):
    return jnp.arange(rows, dtype=jnp.int32)[:, None]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_tokens_of_rows_in_shared_blocks_attend_as_in_rows_of_their_own(implementation, dtype):
    # Rows of 11 and 6 positions in blocks of 4 share the first; the last 3 and 1 of them are new.
    random = np.random.default_rng(0)
    tables = np.array([[5, 2, 3]] * 3 + [[5, 1, 0]], np.int32)
    positions = np.array([8, 9, 10, 5], np.int32)
    q, k, v = (draw(random, (4, heads, 20), dtype) for heads in (6, 2, 2))
    keys, values = (draw(random, (2, 6, 4, 2, 20), dtype) for _ in range(2))
    layer = jnp.int32(1)
    given = positions_of(positions), positions_of(tables)
    out, new_keys, new_values = cached_attention(q, k, v, keys, values, layer, *given)
    blocks = tables[range(4), positions // 4]
    want = []
    for kept, new in ((keys, k), (values, v)):
        want.append(np.array(kept))
        want[-1][1, blocks, positions % 4] = new
    np.testing.assert_array_equal(new_keys, want[0], err_msg=implementation)
    np.testing.assert_array_equal(new_values, want[1])
    rows = (np.float64(x[1][tables].reshape(4, 12, 2, 20)) for x in want)
    found = oracle(np.float64(q), *rows, positions)
    np.testing.assert_allclose(np.float64(out), found, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


def test_a_row_is_the_same_bit_by_bit_among_any_others_in_any_cache(library):
    random = np.random.default_rng(0)
    q, k, v = (draw(random, (4, 2, 64), "bfloat16") for _ in range(3))
    keys, values = (draw(random, (1, 4, 50, 2, 64), "bfloat16") for _ in range(2))
    positions = positions_of([30, 3, 49, 20])
    layer = jnp.int32(0)
    own = blocks_of_their_own(4)
    out, *_ = cached_attention(q, k, v, keys, values, layer, positions, own)
    one = slice(3, 4)
    short = (x[:, one, :21] for x in (keys, values))
    alone, *_ = cached_attention(q[one], k[one], v[one], *short, layer, positions[one], own[:1])
    np.testing.assert_array_equal(alone, out[one], err_msg=library)


@pytest.mark.parametrize(("layer", "position"), [(-1, 0), (2, 0), (0, -1), (0, 5)])
def test_a_place_outside_the_cache_is_refused(library, layer, position):
    x, kept = jnp.ones((1, 1, 4)), jnp.ones((2, 1, 5, 1, 4))
    place = jnp.int32(layer), positions_of([position]), blocks_of_their_own(1)
    with pytest.raises(jax.errors.JaxRuntimeError, match=r"no such (layer|position)"):
        jax.block_until_ready(cached_attention(x, x, x, kept, kept, *place))
    assert library


@pytest.mark.parametrize("block", [-1, 2])
def test_a_block_outside_the_cache_is_refused(library, block):
    x, kept, tables = jnp.ones((1, 1, 4)), jnp.ones((1, 2, 5, 1, 4)), positions_of([[0, block]])
    with pytest.raises(jax.errors.JaxRuntimeError, match="no such block"):
        jax.block_until_ready(
            cached_attention(x, x, x, kept, kept, jnp.int32(0), positions_of([0]), tables)
        )
    assert library
