"""The greatest of rows and the sums of their exponentials are those of NumPy, in float64."""

import jax
import numpy as np
import pytest

from fugaku_jax.kernels.greatest import greatest

find = jax.jit(greatest, static_argnums=2)


def log_sum(rows):
    with np.errstate(divide="ignore"):
        return np.log(np.exp(np.float64(rows)).sum(-1))


@pytest.mark.parametrize("width", [1, 7, 63, 64, 303, 1024, 5003])
def test_the_first_of_equally_great_numbers_is_found(implementation, width):
    rows = np.random.default_rng(width).integers(-2, 2, (40, width)).astype(np.float32)
    rows[::5] = -np.inf
    rows[3, -1] = rows[4, 0] = 9
    which, total = find(rows, width, width)
    np.testing.assert_array_equal(which, rows.argmax(-1), implementation)
    np.testing.assert_allclose(total, log_sum(rows), rtol=1e-6)


@pytest.mark.parametrize("columns", [0, 1, 500, 997, 1000])
def test_what_lies_behind_the_columns_is_not_looked_at(implementation, columns):
    rows = np.random.default_rng(0).normal(0, 30, (5, 1000)).astype(np.float32)
    given = rows.copy()
    given[:, columns:] = np.nan
    which, total = find(given, columns, columns)
    want = rows[:, :columns].argmax(-1) if columns else np.zeros(5)
    np.testing.assert_array_equal(which, want, implementation)
    np.testing.assert_allclose(total, log_sum(rows[:, :columns]), rtol=1e-6)


def test_what_is_not_finite_is_told(implementation):
    rows = np.random.default_rng(0).normal(size=(4, 1000)).astype(np.float32)
    rows[0, [900, 700]], rows[1, 800], rows[2, [3, 950]] = np.nan, np.inf, (np.inf, np.nan)
    which, total = find(rows, 1000, 1000)
    np.testing.assert_array_equal(which, rows.argmax(-1), implementation)
    assert np.isnan(total[0])
    assert np.isinf(total[1])
    assert np.isnan(total[2])
    assert np.isfinite(total[3])


def test_rows_may_have_any_shape(implementation):
    rows = np.random.default_rng(0).normal(size=(2, 3, 70)).astype(np.float32)
    which, total = find(rows, 60, 64)
    np.testing.assert_array_equal(which, rows[..., :60].argmax(-1), implementation)
    np.testing.assert_allclose(total, log_sum(rows[..., :64]), rtol=1e-6)


def test_what_cannot_be_chosen_counts_in_the_sum(implementation):
    rows = np.random.default_rng(0).normal(size=(3, 700)).astype(np.float32)
    rows[0, 650], rows[1, 500], rows[2, 699] = 80, 80, np.nan
    which, total = find(rows, 500, 700)
    np.testing.assert_array_equal(which, rows[:, :500].argmax(-1), implementation)
    np.testing.assert_allclose(total[:2], log_sum(rows[:2]), rtol=1e-6)
    assert np.isnan(total[2])
