"""The activation, held to its formula in float64."""

import jax
import jax.numpy as jnp
import numpy as np

from fugaku_jax.kernels.activation import gelu

POINTS = np.linspace(-8, 8, 1001)


def in_float64(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def test_gelu_equals_the_formula_in_float64():
    np.testing.assert_allclose(
        gelu(jnp.asarray(POINTS, jnp.float32)), in_float64(POINTS), atol=1e-6
    )


def test_its_gradient_equals_the_slope_in_float64():
    gradient = jax.vmap(jax.grad(gelu))(jnp.asarray(POINTS, jnp.float32))
    slope = (in_float64(POINTS + 1e-5) - in_float64(POINTS - 1e-5)) / 2e-5
    np.testing.assert_allclose(gradient, slope, atol=1e-5)
