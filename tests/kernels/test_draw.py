"""Tokens are drawn as NumPy draws them in float64, by the same random number."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fugaku_jax.kernels.draw import draw

tokens = jax.jit(draw)


def drawn(rows, uniform, candidates=None, temperature=1.0, top_k=0, top_p=1.0):
    count = len(rows)
    candidates = rows.shape[1] if candidates is None else candidates
    kinds = (temperature, np.float32), (top_k, np.int32), (top_p, np.float32), (uniform, np.float32)
    how = [jnp.asarray(np.broadcast_to(x, count), kind) for x, kind in kinds]
    return np.asarray(tokens(jnp.asarray(rows), jnp.int32(candidates), *how))


def shares(row, temperature, top_k, top_p):
    """Return the probabilities of a row's tokens once what may not be drawn is left out."""
    x = np.float64(np.float32(row) / np.float32(temperature))
    if 0 < top_k < len(x):
        x[x < np.sort(x)[-top_k]] = -np.inf
    share = np.exp(x - x.max())
    share /= share.sum()
    if top_p < 1:
        order = np.argsort(-share, kind="stable")
        before = np.cumsum(share[order]) - share[order]
        share[order[before >= top_p]] = 0
        share /= share.sum()
    return share


@pytest.mark.parametrize("width", [1, 5, 64, 1000, 5003])
@pytest.mark.parametrize(("top_k", "top_p"), [(0, 1.0), (1, 1.0), (40, 1.0), (0, 0.8), (30, 0.5)])
def test_the_token_is_that_of_float64(implementation, width, top_k, top_p):
    random = np.random.default_rng(width)
    rows = random.normal(0, 3, (30, width)).astype(np.float32)
    rows[:, width // 2 :: 7] = -np.inf
    rows[:, 0] = 1
    uniform = random.uniform(size=30).astype(np.float32)
    uniform[:2] = 0, np.nextafter(np.float32(1), np.float32(0))
    found = drawn(rows, uniform, temperature=0.7, top_k=top_k, top_p=top_p)
    for row, number, token in zip(rows, uniform, found, strict=True):
        share = shares(row, 0.7, top_k, top_p)
        sums = np.cumsum(share)
        # Rounding may decide for a neighbour where the number lies on the border of two.
        assert share[token] > 0, implementation
        assert sums[token] - share[token] - 1e-5 <= number <= sums[token] + 1e-5, implementation


def test_equal_logits_stay_together(implementation):
    rows = np.zeros((200, 70), np.float32)
    rows[:, [3, 50, 69]] = 2.5
    uniform = (np.arange(200) + 0.5) / 200
    for how in ({"top_k": 1}, {"top_k": 3}, {"top_p": 0.01}):
        found = np.bincount(drawn(rows, uniform, **how), minlength=70)
        assert found[[3, 50, 69]].tolist() == pytest.approx([200 / 3] * 3, abs=1), implementation


def test_only_candidates_are_drawn_and_rows_know_nothing_of_each_other(implementation):
    rows = np.random.default_rng(0).normal(size=(9, 700)).astype(np.float32)
    rows[:, 600:] = 50
    rows[4, 100] = np.nan
    uniform = np.linspace(0, 0.999, 9)
    heat = np.array([1, 0, 0.5, 2, 1, 1e-3, 1, 30, 1])
    found = drawn(rows, uniform, candidates=600, temperature=heat)
    assert found.max() < 600, implementation
    assert found[1] == 0  # is not warm
    assert found[5] == rows[5, :600].argmax()
    for row in set(range(9)) - {1, 4}:
        given = rows[row : row + 1], uniform[row]
        alone = drawn(*given, candidates=600, temperature=heat[row])
        assert alone[0] == found[row], implementation


def test_a_row_whose_greatest_is_not_finite_draws_nothing(implementation):
    rows = np.random.default_rng(0).normal(size=(3, 90)).astype(np.float32)
    rows[0], rows[1, 7] = -np.inf, np.inf
    assert drawn(rows, 0.9)[:2].tolist() == [0, 0], implementation
    assert drawn(rows, 0.9, candidates=0).tolist() == [0, 0, 0], implementation
