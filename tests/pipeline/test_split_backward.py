"""A layer's backward pass in two halves, against the whole of it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fugaku_jax.config import ModelConfig
from fugaku_jax.kernels import native
from fugaku_jax.kernels.dropout import Dropout
from fugaku_jax.models.gpt import GPT, Inputs, block_layer
from fugaku_jax.pipeline.split_backward import split

B, T, D = 2, 24, 32


@functools.cache
def one_block():
    config = ModelConfig(
        vocab_size=97, n_layers=1, d_model=D, n_heads=2, sequence_length=T, dropout=0.1
    )
    structure, weights = nnx.split(GPT(config, jax.random.key(0)).blocks)
    return structure, jax.tree.map(lambda w: w[0], weights)


def pullback_of_a_block(remat, dtype):
    structure, weights = one_block()
    x = jax.random.normal(jax.random.key(1), (B, T, D)).astype(dtype)
    layer = block_layer(structure, remat)

    @jax.jit
    def differentiated(x, weights):
        inputs = Inputs(None, dropout=Dropout(jax.random.key(2), T))
        given = (jnp.int32(0), inputs)
        return jax.vjp(lambda x, weights: layer(x, weights, given), x, weights)

    y, pullback = differentiated(x, weights)
    values, tree = jax.tree.flatten(pullback)
    return lambda values, dy: jax.tree.leaves(jax.tree.unflatten(tree, values)(dy)), values, y


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("remat", ["none", "products", "block"])
def test_the_halves_of_a_block_give_what_the_whole_gives(remat, dtype):
    function, values, y = pullback_of_a_block(remat, dtype)
    halves = split(function, values, y)
    dx, left = jax.jit(halves.first)(values, y)
    found = dx + jax.jit(halves.second)(values, left)
    for mine, whole in zip(found, jax.jit(function)(values, y), strict=True):
        assert mine.dtype == whole.dtype
        # The same operations; only what is fused may differ.
        np.testing.assert_allclose(np.float32(mine), np.float32(whole), rtol=1e-5, atol=1e-6)


# The products of qkv, attention's output, up and down, and those that sum their biases' gradients.
# Where a block's `products` are kept, only the second half wants attention's result, whose two
# products are then computed again for it.
@pytest.mark.slow
@pytest.mark.parametrize(("remat", "put_off"), [("none", 8), ("products", 10), ("block", 8)])
def test_products_that_only_weights_need_are_in_the_second_half_and_none_is_in_both(remat, put_off):
    with native.use("reference"):
        function, values, y = pullback_of_a_block(remat, jnp.float32)
        halves = split(function, values, y)
        _, left = jax.eval_shape(halves.first, values, y)
        assert products(halves.second, values, left) == put_off
        assert products(halves.first, values, y) == products(function, values, y) - put_off


def test_gradients_of_the_products_results_are_left_and_not_much_more():
    function, values, y = pullback_of_a_block("none", jnp.float32)
    left = split(function, values, y).deferred
    sizes = sorted(leaf.size // (B * T) for leaf in left if leaf.size >= B * T * D)
    assert sizes == [D, D, 3 * D, 4 * D]
    # Gradients of the two normalisations' biases and scales are ready.
    assert sum(leaf.size for leaf in left if leaf.size < B * T * D) == 4 * D


@pytest.mark.parametrize("remat", ["none", "products", "block"])
def test_native_products_are_put_off_too_and_kept_where_products_are(remat):
    with native.use("native"):
        function, values, y = pullback_of_a_block(remat, jnp.float32)
        halves = split(function, values, y)
        _, left = jax.eval_shape(halves.first, values, y)
        assert products(halves.second, values, left, name="fugaku_matmul") == 8
        # The gradients of four inputs; and forward again, all but the last, if a block is not kept.
        again = 3 if remat == "block" else 0
        assert products(halves.first, values, y, name="fugaku_matmul") == 4 + again


def products(function, *arguments, name="dot_general["):
    """Count the matrix products, also those inside of calls."""
    return str(jax.make_jaxpr(function)(*arguments)).count(name)
