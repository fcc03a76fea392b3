"""Attention of the newest position is held to float64 NumPy, and writes nothing but its place."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fugaku_jax.kernels.cached_attention import cached_attention

TOLERANCE = {"float32": 1e-5, "bfloat16": 2e-2, "float16": 2e-3}
"""Rounding of sums in fp32, and of the result, a mean of normal numbers."""
NONE = jnp.zeros((0, 2), jnp.int32)


def draw(random, shape, dtype):
    return jnp.asarray(random.normal(size=shape), dtype)


def draw_cache(random, layers, blocks, groups, width, size, dtype):
    """Draw keys and values as they are kept."""
    shapes = (width, size), (size, width)
    return [draw(random, (layers, blocks, groups, *shape), dtype) for shape in shapes]


def by_position(keys, values):
    """Return both with a position's groups in one piece."""
    return np.moveaxis(keys, 4, 2), np.moveaxis(values, 3, 2)


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
    keys, values = draw_cache(random, 2, 3, groups, width, length, dtype)
    positions = np.array([0, length // 2, length - 1], np.int32)
    layer = jnp.int32(1)
    out, new_keys, new_values = cached_attention(
        q, k, v, keys, values, layer, positions_of(positions), blocks_of_their_own(3), NONE
    )
    rows = np.arange(3)
    want = [np.array(x) for x in by_position(keys, values)]
    for kept, new in zip(want, (k, v), strict=True):
        kept[1, rows, positions] = new
    for found, kept in zip(by_position(new_keys, new_values), want, strict=True):
        np.testing.assert_array_equal(found, kept, err_msg=implementation)
    want = oracle(*(np.float64(x) for x in (q, want[0][1], want[1][1])), positions)
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
    keys, values = draw_cache(random, 2, 6, 2, 20, 4, dtype)
    layer = jnp.int32(1)
    given = positions_of(positions), positions_of(tables), NONE
    out, new_keys, new_values = cached_attention(q, k, v, keys, values, layer, *given)
    blocks = tables[range(4), positions // 4]
    want = [np.array(x) for x in by_position(keys, values)]
    for kept, new in zip(want, (k, v), strict=True):
        kept[1, blocks, positions % 4] = new
    for found, kept in zip(by_position(new_keys, new_values), want, strict=True):
        np.testing.assert_array_equal(found, kept, err_msg=implementation)
    rows = (np.float64(x[1][tables].reshape(4, 12, 2, 20)) for x in want)
    found = oracle(np.float64(q), *rows, positions)
    np.testing.assert_allclose(np.float64(out), found, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


@pytest.mark.parametrize(("heads", "groups"), [(2, 2), (4, 1), (14, 2)])
@pytest.mark.parametrize("width", [5, 64, 80])
def test_a_row_is_the_same_bit_by_bit_among_any_others_in_any_cache(library, heads, groups, width):
    # Nine rows have two blocks in common, two of these one more; one has nothing with others.
    random = np.random.default_rng(0)
    tables = np.array([[1, 2, 10 + i % 9, 19 + i % 9] for i in range(9)] + [[9, 28, 29, 30]])
    tables[3, 2] = tables[7, 2] = 8
    tables = tables[random.permutation(10)]
    positions = random.integers(48, 64, 10)
    positions[2] = 20  # which is within what it has in common
    q = draw(random, (10, heads, width), "bfloat16")
    k, v = (draw(random, (10, groups, width), "bfloat16") for _ in range(2))
    keys, values = draw_cache(random, 1, 31, groups, width, 16, "bfloat16")
    layer = jnp.int32(0)
    given = positions_of(positions), positions_of(tables), NONE
    out, *kept = cached_attention(q, k, v, keys, values, layer, *given)
    for row in range(10):
        one = slice(row, row + 1)
        # Alone, in one block.
        whole = [np.array(x)[:, tables[row]] for x in by_position(*kept)]
        own = [x.reshape(1, 1, 64, groups, width) for x in whole]
        own = np.moveaxis(own[0], 2, 4), np.moveaxis(own[1], 2, 3)
        own = (jnp.asarray(x, "bfloat16") for x in own)
        given = positions_of(positions[one]), blocks_of_their_own(1), NONE
        alone, *_ = cached_attention(q[one], k[one], v[one], *own, layer, *given)
        np.testing.assert_array_equal(alone, out[one], err_msg=library)


@pytest.mark.parametrize(("layer", "position"), [(-1, 0), (2, 0), (0, -1), (0, 5)])
def test_a_place_outside_the_cache_is_refused(library, layer, position):
    x, (keys, values) = jnp.ones((1, 1, 4)), (jnp.ones((2, 1, 1, *x)) for x in ((4, 5), (5, 4)))
    place = jnp.int32(layer), positions_of([position]), blocks_of_their_own(1), NONE
    with pytest.raises(jax.errors.JaxRuntimeError, match=r"no such (layer|position)"):
        jax.block_until_ready(cached_attention(x, x, x, keys, values, *place))
    assert library


@pytest.mark.parametrize("block", [-1, 2])
@pytest.mark.parametrize("which", ["table", "source", "target"])
def test_a_block_outside_the_cache_is_refused(library, which, block):
    x, (keys, values) = jnp.ones((1, 1, 4)), (jnp.ones((1, 2, 1, *x)) for x in ((4, 5), (5, 4)))
    blocks = {"table": 0, "source": 0, "target": 0} | {which: block}
    tables, copies = [[0, blocks["table"]]], [[0, 0], [blocks["source"], blocks["target"]]]
    where = jnp.int32(0), positions_of([0]), positions_of(tables), positions_of(copies)
    with pytest.raises(jax.errors.JaxRuntimeError, match="no such block"):
        jax.block_until_ready(cached_attention(x, x, x, keys, values, *where))
    assert library


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_blocks_are_copied_before_anything_is_written(implementation, dtype):
    random = np.random.default_rng(0)
    q, k, v = (draw(random, (1, heads, 20), dtype) for heads in (6, 2, 2))
    keys, values = draw_cache(random, 2, 6, 2, 20, 4, dtype)
    where = jnp.int32(1), positions_of([6]), positions_of([[1, 2]])
    copies = positions_of([[3, 2], [0, 0], [4, 3]])
    found = cached_attention(q, k, v, keys, values, *where, copies)
    before = [x.at[1, 2].set(x[1, 3]).at[1, 3].set(x[1, 4]) for x in (keys, values)]
    want = cached_attention(q, k, v, *before, *where, NONE)
    for one, other in zip(found, want, strict=True):
        np.testing.assert_array_equal(one, other, err_msg=implementation)
