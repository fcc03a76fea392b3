"""Layers by `scan_layers`, held to a plain scan and its automatic derivative."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fugaku_jax.pipeline.stack import scan_layers

LAYERS, WIDTH = 5, 8


def layer(x, weights, given):
    number, shift = given
    hidden = x @ weights["kernel"].astype(x.dtype) + weights["bias"].astype(x.dtype)
    return x + jnp.tanh(hidden) * (1 + number).astype(x.dtype) + shift


def arguments(dtype):
    keys = jax.random.split(jax.random.key(0), 3)
    weights = {
        "kernel": jax.random.normal(keys[0], (LAYERS, WIDTH, WIDTH)),
        "bias": jax.random.normal(keys[1], (LAYERS, WIDTH)),
    }
    return jax.random.normal(keys[2], (1, 3, WIDTH)).astype(dtype), weights


def ours(x, weights):
    shift = jnp.asarray(0.5, x.dtype)
    return scan_layers(layer, x, weights, jnp.arange(LAYERS), shift).astype(jnp.float32).sum()


def plain(x, weights):
    shift = jnp.asarray(0.5, x.dtype)

    def body(x, one):
        return layer(x, one[0], (one[1], shift)), None

    return jax.lax.scan(body, x, (weights, jnp.arange(LAYERS)))[0].astype(jnp.float32).sum()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_value_and_gradients_equal_those_of_a_plain_scan(dtype):
    x, weights = arguments(dtype)
    one = jax.jit(jax.value_and_grad(ours, (0, 1)))(x, weights)
    other = jax.jit(jax.value_and_grad(plain, (0, 1)))(x, weights)
    for mine, theirs in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert mine.dtype == theirs.dtype
        # Narrow types round once more or less where XLA fuses otherwise.
        tolerance = 1e-6 if dtype == jnp.float32 else 0.05
        np.testing.assert_allclose(
            np.float32(mine), np.float32(theirs), rtol=tolerance, atol=tolerance
        )


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_weight_is_not_kept_twice_and_bf16_is_kept_as_bits(dtype):
    x, weights = arguments(dtype)
    _, pullback = jax.vjp(ours, x, weights)
    kept = [leaf for leaf in jax.tree.leaves(pullback) if leaf.ndim]
    assert all(leaf.dtype != jnp.bfloat16 for leaf in kept)
    kernels = [leaf for leaf in kept if leaf.shape == (LAYERS, WIDTH, WIDTH)]
    # In fp32 the kernel itself; in bf16 also the narrow copy that the product used.
    assert len(kernels) == (1 if dtype == jnp.float32 else 2)


def test_rows_that_are_no_layers_are_refused():
    x, weights = arguments(jnp.float32)
    with pytest.raises(ValueError, match=r"Stacks of \[4, 5\] layers"):
        jax.grad(lambda x: scan_layers(layer, x, weights, jnp.arange(4), 0.0).sum())(x)
