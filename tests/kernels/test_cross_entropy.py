"""Cross-entropy of any shape, held to its formula in float64, and with odd logits to its twin."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from narrow import in_fp16

from fugaku_jax.kernels.loss import _chunk_loss, cross_entropy, reference_chunk_loss


def in_float64(hidden, embedding, targets, weights, vocab_size, z_loss):
    """Return the loss, that of each position, and the gradients of states and embedding."""
    hidden, embedding, weights = (np.asarray(x, np.float64) for x in (hidden, embedding, weights))
    used = embedding[:vocab_size]
    logits = hidden @ used.T
    log_z = np.log(np.exp(logits).sum(-1, keepdims=True))
    is_target = np.arange(vocab_size) == np.asarray(targets)[..., None]
    of_rows = log_z[..., 0] - (logits * is_target).sum(-1) + z_loss * log_z[..., 0] ** 2
    d_logits = np.exp(logits - log_z) * (1 + 2 * z_loss * log_z) - is_target
    d_logits *= weights[..., None]
    d_embedding = np.zeros_like(embedding)
    d_embedding[:vocab_size] = np.einsum("btv,btd->vd", d_logits, hidden)
    return (weights * of_rows).sum(), of_rows, d_logits @ used, d_embedding


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_loss_and_gradients_equal_the_formula_for_any_shape(implementation, dtype):  # noqa: ARG001
    @settings(max_examples=8, deadline=None)
    @given(
        st.sampled_from([(0, 3), (3, 0), (1, 1), (2, 7), (1, 13), (3, 4)]),
        st.sampled_from([1, 5, 16, 31]),
        st.sampled_from([1, 2, 13, 16, 64, 97]),
        st.integers(0, 16),
        st.sampled_from([0.0, 0.1]),
    )
    @example((2, 7), 31, 97, 14, 0.1)
    def check(positions, width, rows, padding, z_loss):
        random = np.random.default_rng(0)
        hidden = jnp.asarray(random.normal(size=(*positions, width)), dtype)
        # Kept in the type of the states, so that rounding it for the product changes nothing.
        embedding = random.normal(size=(rows, width)) / np.sqrt(width)
        embedding = jnp.asarray(embedding, dtype).astype(jnp.float32)
        vocab_size = max(1, rows - padding)
        targets = jnp.asarray(random.integers(0, vocab_size, positions), jnp.int32)
        weights = jnp.asarray(random.choice([0.0, 0.5, 1.0], positions), jnp.float32)

        def loss(hidden, embedding):
            return cross_entropy(hidden, embedding, targets, weights, vocab_size, z_loss)

        differentiated = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))
        (value, losses), gradients = differentiated(hidden, embedding)
        exact, each, *slopes = in_float64(hidden, embedding, targets, weights, vocab_size, z_loss)
        # Logits that are added in fp16 are off by some units of its last place.
        narrow = 8 * float(jnp.finfo(dtype).eps) if in_fp16(dtype) else 0
        np.testing.assert_allclose(value, exact, rtol=1e-5 + narrow, atol=1e-5 + narrow)
        np.testing.assert_allclose(losses, each, rtol=1e-5 + narrow, atol=1e-5 + narrow)
        assert [each.dtype for each in gradients] == [dtype, jnp.float32]
        # The gradient of a logit is rounded to the type of the states, and so is that of a state.
        slack = 1e-5 + 4 * float(jnp.finfo(dtype).eps) + narrow
        for ours, theirs in zip(gradients, slopes, strict=True):
            np.testing.assert_allclose(np.float64(ours), theirs, rtol=slack, atol=slack)

    check()


@pytest.mark.slow
def test_odd_logits_do_what_they_do_in_the_twin(library):  # noqa: ARG001
    logits = np.random.default_rng(0).normal(size=(1, 8, 37)).astype(np.float32)
    targets = jnp.asarray([[3, 3, 3, 3, 3, 3, 36, 3]], jnp.int32)
    logits[0, 1, 20], logits[0, 2, 20], logits[0, 3, 20] = np.nan, np.inf, -np.inf
    logits[0, 4, 3], logits[0, 5, 3] = np.inf, -np.inf
    logits[0, 6, 35], logits[0, 7] = 1e30, -1e30  # 35 and 36 are beyond the vocabulary of 35
    kernel = jax.jit(lambda *row: _chunk_loss(*row, jnp.ones((1, 1)), 35, 0.0, jnp.float32))
    twin = jax.jit(lambda *row: reference_chunk_loss(*row, jnp.ones((1, 1)), 35, 0.0))
    for row in range(8):
        arguments = jnp.asarray(logits[:, row : row + 1]), targets[:, row : row + 1]
        for x, y in zip(kernel(*arguments), twin(*arguments), strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6, err_msg=str(row))
