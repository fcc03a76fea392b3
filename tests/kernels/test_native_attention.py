"""The native attention, held to float64 NumPy: gradients and masks too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fugaku_jax.kernels import native
from fugaku_jax.kernels.attention import attention, packed_attention, reference_attention
from fugaku_jax.kernels.dropout import Dropout

pytestmark = pytest.mark.usefixtures("library")


def draw(batch, length, heads, groups, head_dim, dtype="float32"):
    """Return q, k, v and the gradient of the result."""
    random = np.random.default_rng(0)
    shapes = [(batch, length, count, head_dim) for count in (heads, groups, groups, heads)]
    return [jnp.asarray(random.normal(size=shape).astype(jnp.dtype(dtype))) for shape in shapes]


def draw_segments(batch, length):
    starts = np.random.default_rng(1).random((batch, length)) < 0.05
    return jnp.asarray(np.cumsum(starts, axis=1).astype(np.int32))


def in_float64(q, k, v, d_out, rounded, segments=None, kept=1.0):
    """Return result and gradients.

    `rounded` is the result in its own type, which the backward pass knows; `kept` is what dropout
    multiplies the weights by.
    """
    q, k, v, d_out, rounded = (np.asarray(x, np.float64) for x in (q, k, v, d_out, rounded))
    shared = q.shape[2] // max(k.shape[2], 1)
    groups = k.shape
    k, v = (np.repeat(x, shared, axis=2) for x in (k, v))
    length, scale = q.shape[1], 1 / np.sqrt(max(q.shape[3], 1))
    visible = np.tril(np.ones((length, length), bool))[None]
    if segments is not None:
        segments = np.asarray(segments)
        visible = visible & (segments[:, :, None] == segments[:, None, :])
    scores = np.where(visible[:, None], np.einsum("bthk,bshk->bhts", q, k) * scale, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True, initial=-1e30))
    weights /= weights.sum(-1, keepdims=True)
    out = np.einsum("bhts,bshk->bthk", weights * kept, v)
    d_weights = np.einsum("bthk,bshk->bhts", d_out, v) * kept
    of_rows = np.einsum("bthk,bthk->bht", d_out, rounded)[..., None]
    d_scores = weights * (d_weights - of_rows) * scale
    d_q = np.einsum("bhts,bshk->bthk", d_scores, k)
    d_k = np.einsum("bhts,bthk->bshk", d_scores, q)
    d_v = np.einsum("bhts,bthk->bshk", weights * kept, d_out)
    d_k, d_v = (x.reshape(*groups[:3], shared, groups[3]).sum(3) for x in (d_k, d_v))
    return out, d_q, d_k, d_v


def pull_back(function, d_out, *operands):
    """Return result and gradients."""

    @jax.jit
    def run(d_out, operands):
        out, back = jax.vjp(function, *operands)
        return out, *back(d_out)

    return run(d_out, operands)


def agree(ours, exact, dtype):
    """Hold all numbers to the rounding of the sums, and to that of the type of the operands.

    Where bf16 is multiplied in pairs, weights and gradients of scores are rounded to it as well, by
    2^-9 = eps / 4 of each at most. These errors are independent: in a sum they stay below eps.
    """
    eps = float(jnp.finfo(dtype).eps)
    for ours_one, exact_one in zip(ours, exact, strict=True):
        assert ours_one.dtype == dtype
        assert ours_one.shape == exact_one.shape
        np.testing.assert_allclose(np.float64(ours_one), exact_one, rtol=2 * eps, atol=6e-6 + eps)


@pytest.mark.slow
@settings(max_examples=8, deadline=None)
@given(
    st.integers(0, 2),
    st.sampled_from([0, 1, 2, 47, 48, 49, 97, 131, 200]),
    st.sampled_from([(1, 1), (3, 3), (4, 2), (3, 1), (0, 0), (0, 1)]),
    st.sampled_from([0, 1, 3, 16, 37, 64, 80]),
    st.sampled_from(["float32", "bfloat16", "float16"]),
    st.booleans(),
)
@example(1, 401, (1, 1), 144, "float32", True)  # cut into parts, each with keys of its own
@example(2, 200, (2, 2), 64, "float32", False)
def test_result_and_gradients_equal_numpy_for_any_shape(
    batch, length, heads, head_dim, dtype, segmented
):
    q, k, v, d_out = draw(batch, length, *heads, head_dim, dtype)
    segments = draw_segments(batch, length) if segmented else None
    ours = pull_back(lambda *x: attention(*x, segments), d_out, q, k, v)
    agree(ours, in_float64(q, k, v, d_out, ours[0], segments), dtype)


@pytest.mark.parametrize("head_dim", [8, 80])
def test_packed_operands_give_the_very_numbers_of_separate_ones(head_dim):
    q, k, v, d_out = draw(2, 61, 3, 3, head_dim)
    out, d_qkv = pull_back(packed_attention, d_out, jnp.stack([q, k, v], axis=2))
    apart, *gradients = pull_back(attention, d_out, q, k, v)
    np.testing.assert_array_equal(out, apart)
    np.testing.assert_array_equal(d_qkv, jnp.stack(gradients, axis=2))


@pytest.mark.slow
@pytest.mark.parametrize("segmented", [False, True])
@pytest.mark.parametrize("length", [5, 130, 203])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_masks_are_those_of_dropout_in_both_directions(dtype, length, segmented):
    """Also where the counter of a row overflows, and rows are longer than what is here."""
    batch, heads, rate = 2, 3, 0.3
    q, k, v, d_out = draw(batch, length, heads, heads, 16, dtype)
    masks = Dropout(jax.random.key(3), sequence_length=length + 6, first_row=2**31)
    ones = jnp.ones((batch, heads, length, length))
    kept = np.asarray(masks.weights(ones, rate, first_query=0), np.float64)
    segments = draw_segments(batch, length) if segmented else None
    ours = pull_back(lambda *x: attention(*x, segments, masks, rate), d_out, q, k, v)
    agree(ours, in_float64(q, k, v, d_out, ours[0], segments, kept), dtype)


@pytest.mark.slow
def test_which_weights_are_dropped_is_known_to_the_bit():
    length, masks = 150, Dropout(jax.random.key(9), sequence_length=150)
    q, k, _, _ = draw(1, length, 2, 2, length)
    # With the unit vectors for values, the result is the weights.
    v = jnp.broadcast_to(jnp.eye(length)[None, :, None], q.shape)
    weights = np.asarray(attention(0.1 * q, 0.1 * k, v, None, masks, 0.5))
    kept = masks.weights(jnp.ones((1, 2, length, length)), 0.5, first_query=0)
    below = np.tril(np.ones((length, length), bool))
    np.testing.assert_array_equal(weights.swapaxes(1, 2) != 0, (kept != 0) & below)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("operand", [0, 1, 2])
def test_what_is_no_number_reaches_whom_it_reaches_in_the_twin(operand, value):
    operands = draw(1, 150, 2, 2, 8)
    d_out = operands.pop()
    operands[operand] = operands[operand].at[0, 100, 1, 3].set(value)
    ours = pull_back(attention, d_out, *operands)[0]
    twins = pull_back(reference_attention, d_out, *operands)[0]
    # Up to its own block, whose bounds differ, nobody sees position 100; after it, everybody does.
    for part in (slice(0, 64), slice(100, 150)):
        np.testing.assert_allclose(ours[:, part], twins[:, part], atol=1e-5)
    assert np.all(np.isfinite(ours[:, :, 0]))


def test_large_scores_overflow_nothing():
    q, k, v, d_out = draw(1, 70, 1, 1, 16)
    q, k = q * 100, k * 100
    out, *gradients = pull_back(attention, d_out, q, k, v)
    # Scores of 10^5 are known to about 10^-2, and so are weights where the softmax is undecided.
    np.testing.assert_allclose(out, in_float64(q, k, v, d_out, out)[0], atol=0.05)
    assert np.all(np.isfinite(gradients))


def test_memory_is_linear_in_the_length():
    def temporaries(length):
        shape = jax.ShapeDtypeStruct((1, length, 3, 2, 64), jnp.float32)
        step = jax.jit(jax.grad(lambda qkv: packed_attention(qkv).sum()))
        compiled = step.lower(shape).compile({"xla_cpu_use_fusion_emitters": True})  # as in a run
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporaries(8192) <= 2.1 * temporaries(4096)


def test_only_operands_result_and_sums_are_kept():
    qkv = jnp.stack(draw(2, 50, 3, 3, 8)[:3], axis=2)
    _, back = jax.vjp(packed_attention, qkv)
    kept = sorted(leaf.shape for leaf in jax.tree.leaves(back) if leaf.size > 8)
    assert kept == [(2, 3, 50), (2, 50, 3, 3, 8), (2, 50, 3, 8)]


def forward(q, k, v, numbers, *rest, out=None, levels=0):
    shape = (*q.shape[:2], *q.shape[-2:])
    results = [
        jax.ShapeDtypeStruct(out or shape, q.dtype),
        jax.ShapeDtypeStruct((shape[0], shape[2], shape[1]), jnp.float32),
    ]
    attributes = {"sequence_length": np.int64(8), "dropped_levels": np.int64(levels)}
    return native.call("attention_forward", results, q, k, v, numbers, *rest, **attributes)


WRONG = {
    "v of another type": lambda q, n: forward(q, q, q.astype(jnp.float16), n),
    "k of other rows": lambda q, n: forward(q, q[:1], q[:1], n),
    "v of other heads": lambda q, n: forward(q, q, q[:, :, :1], n),
    "heads that do not divide": lambda q, n: forward(q, q[:, :, :2], q[:, :, :2], n),
    "three dimensions": lambda q, n: forward(q[0], q[0], q[0], n),
    "a packed array of two": lambda q, n: forward(*[jnp.stack([q, q], 2)] * 3, n),
    "integers": lambda q, n: forward(*[q.astype(jnp.int32)] * 3, n),
    "numbers too few": lambda q, n: forward(q, q, q, n[:3]),
    "numbers of another type": lambda q, n: forward(q, q, q, n.astype(jnp.int32)),
    "segments too short": lambda q, n: forward(q, q, q, n, jnp.zeros((2, 7), jnp.int32)),
    "segments of another type": lambda q, n: forward(q, q, q, n, jnp.zeros((2, 8))),
    "one operand more": lambda q, n: forward(q, q, q, n, *[jnp.zeros((2, 8), jnp.int32)] * 2),
    "a result of another shape": lambda q, n: forward(q, q, q, n, out=(2, 8, 3, 5)),
    "everything dropped": lambda q, n: forward(q, q, q, n, levels=65_536),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_operands_are_an_error_of_the_call(case):
    with pytest.raises(jax.errors.JaxRuntimeError, match="attention: "):
        WRONG[case](jnp.ones((2, 8, 3, 4)), jnp.zeros(4, jnp.uint32))


@pytest.mark.parametrize("wrong", ["out", "sums", "d_out", "gradients", "one gradient"])
def test_wrong_operands_of_the_backward_pass_are_an_error_of_the_call(wrong):
    q, numbers = jnp.ones((2, 8, 3, 4)), jnp.zeros(4, jnp.uint32)
    shapes = [q.shape, q.shape, (1, 8, 3, 4) if wrong == "one gradient" else q.shape]
    gradients = [jax.ShapeDtypeStruct(shape, q.dtype) for shape in shapes]
    operands = {"out": q, "sums": jnp.ones((2, 3, 8)), "d_out": q}
    if wrong in operands:
        operands[wrong] = operands[wrong][:1]
    if wrong == "gradients":
        del gradients[1:]
    attributes = {"sequence_length": np.int64(8), "dropped_levels": np.int64(0)}
    with pytest.raises(jax.errors.JaxRuntimeError, match="attention: "):
        native.call(
            "attention_backward", gradients, q, q, q, numbers, *operands.values(), **attributes
        )


def test_heads_that_cannot_be_shared_equally_are_refused():
    q, k, v, _ = draw(1, 4, 3, 2, 8)
    with pytest.raises(ValueError, match="3 heads of queries cannot share 2"):
        attention(q, k, v)
