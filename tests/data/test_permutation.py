"""Shuffling without a table is a bijection, differs by key, and can be undone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fugaku_jax.data.permutation import make_key, permute, unpermute


@pytest.mark.parametrize("size", [*range(1, 70), 127, 128, 129, 1000, 4097])
def test_permute_is_a_bijection_and_unpermute_its_inverse(size):
    index = np.arange(size)
    key = np.repeat(make_key(3, 1, np.array([size])), size)
    image = permute(index, size, key)
    np.testing.assert_array_equal(np.sort(image), index)
    np.testing.assert_array_equal(unpermute(image, size, key), index)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 2**50), st.integers(-(2**70), 2**70), st.integers(0, 2**40), st.data())
def test_large_sets_are_inverted_too(size, seed, epoch, data):
    index = np.array([data.draw(st.integers(0, size - 1))])
    key = make_key(seed, 5, np.array([epoch]))
    image = permute(index, size, key)
    assert 0 <= image[0] < size
    assert unpermute(image, size, key) == index


def test_each_seed_set_and_epoch_has_its_own_order():
    index = np.arange(500)
    orders = {
        tuple(permute(index, 500, np.repeat(make_key(seed, each, np.array([epoch])), 500)))
        for seed in (0, 1, -1, 2**63)
        for each in (0, 1, 2)
        for epoch in (0, 1, 2)
    }
    assert len(orders) == 36


def test_the_order_looks_random():
    """Each image in each of ten bins of time: chi squared with 81 degrees of freedom."""
    size = 10_000
    image = permute(np.arange(size), size, np.repeat(make_key(0, 0, np.array([0])), size))
    counts = np.histogram2d(np.arange(size), image, bins=10)[0]
    # 99.99 % of random permutations are below 137.
    assert ((counts - 100) ** 2 / 100).sum() < 137
    # Neighbours do not stay neighbours: two of 10,000 are expected.
    assert (np.abs(np.diff(image)) == 1).sum() < 15
