"""The order of samples: complete epochs, exact mixtures, an inverse, and refusals."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fugaku_jax.data.order import SampleOrder
from fugaku_jax.errors import InputError


def all_rows(order: SampleOrder, steps: int) -> list[tuple[int, int, int]]:
    """(set, first token, epoch) of every row of the first steps."""
    columns = [np.concatenate(each) for each in zip(*map(order.locate, range(steps)), strict=True)]
    return list(zip(*(column.tolist() for column in columns), strict=True))


def test_every_sample_of_a_set_is_seen_once_in_each_epoch():
    order = SampleOrder([101, 57], [3, 1], sequence_length=4, batch_size=5, seed=7)
    rows = all_rows(order, steps=60)
    for index, samples in ((0, 25), (1, 14)):
        for epoch in (0, 1):
            starts = sorted(start for each, start, e in rows if (each, e) == (index, epoch))
            assert starts == [4 * i for i in range(samples)]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(9, 500), st.integers(1, 20)), min_size=1, max_size=5),
    st.integers(1, 8),
    st.integers(1, 16),
    st.integers(0, 2**64),
    st.integers(0, 10**6),
)
def test_batch_row_inverts_locate(sets, sequence_length, batch_size, seed, step):
    lengths, weights = zip(*sets, strict=True)
    order = SampleOrder(lengths, weights, sequence_length, batch_size, seed)
    for row, (index, start, epoch) in enumerate(zip(*order.locate(step), strict=True)):
        sample = int(start) // sequence_length
        assert order.batch_row(int(index), sample, int(epoch)) == (step, row)


def test_a_step_is_the_same_whatever_was_asked_before():
    arguments = {"sequence_length": 8, "batch_size": 16, "seed": 1}
    order = SampleOrder([1000, 3000], [1, 2], **arguments)
    all_rows(order, steps=30)
    fresh = SampleOrder([1000, 3000], [1, 2], **arguments)
    np.testing.assert_array_equal(fresh.locate(777), order.locate(777))


def test_the_batch_size_does_not_change_the_order_of_samples():
    small = SampleOrder([900, 300], [2, 1], sequence_length=4, batch_size=3, seed=5)
    large = SampleOrder([900, 300], [2, 1], sequence_length=4, batch_size=12, seed=5)
    assert all_rows(small, steps=40) == all_rows(large, steps=10)


@pytest.mark.parametrize("length", [1, 5, 8, 60])
def test_occurrences_are_exactly_the_rows_that_hold_one_of_the_tokens(length):
    order = SampleOrder([120, 80], [2, 1], sequence_length=7, batch_size=4, seed=3)
    rows = all_rows(order, steps=25)
    for start in range(0, 120, 3):
        stop = min(start + length, 120)
        expected = [
            (*divmod(place, 4), first // 7)
            for place, (index, first, _) in enumerate(rows)
            if index == 0 and first < stop and start < first + 8
        ]
        assert order.occurrences(0, start, stop, steps=25) == expected


def test_a_sequence_longer_than_the_longest_run_is_refused_by_its_field():
    with pytest.raises(InputError, match=r"model\.sequence_length: 100 .* at most 99"):
        SampleOrder([100, 50], [1, 1], sequence_length=100, batch_size=1, seed=0)


def test_a_weighted_set_shorter_than_a_sample_is_refused_by_its_name():
    with pytest.raises(InputError, match="set tiny: has 8 tokens"):
        SampleOrder([100, 8], [1, 1], 8, batch_size=1, seed=0, names=["big", "tiny"])
    order = SampleOrder([100, 8], [1, 0], 8, batch_size=1, seed=0)
    assert {index for index, _, _ in all_rows(order, steps=30)} == {0}


def test_a_sample_that_does_not_exist_is_refused():
    order = SampleOrder([100, 50], [1, 0], sequence_length=10, batch_size=2, seed=0)
    with pytest.raises(InputError, match="from 0 to 8, got 9"):
        order.batch_row(0, 9, 0)
    with pytest.raises(InputError, match="never read"):
        order.batch_row(1, 0, 0)


def exact_permutation(index: int, size: int, seed: int, set_index: int, epoch: int) -> int:
    """`permute` in Python's own integers, which know no width but what is asked of them."""
    mask, golden = 2**64 - 1, 0x9E3779B97F4A7C15

    def mix(x: int) -> int:
        x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & mask
        x = (x ^ x >> 27) * 0x94D049BB133111EB & mask
        return x ^ x >> 31

    base = mix(mix(seed & mask) ^ (set_index + 1) * golden & mask)
    key = mix(base ^ mix(epoch + golden & mask))
    bits = max((size - 1).bit_length(), 2)
    low_bits, high_bits = bits // 2, bits - bits // 2
    while True:
        low, high = index % 2**low_bits, index >> low_bits
        for number in range(8):
            round_key = key + (number + 1) * golden & mask
            if number % 2:
                low ^= mix(high ^ round_key) % 2**low_bits
            else:
                high ^= mix(low ^ round_key) % 2**high_bits
        index = (high << low_bits) + low
        if index < size:
            return index


@pytest.mark.parametrize("step", [0, 600, 2**31 // 2016 + 1, 96_880, 10**9, 2**31 - 2])
def test_positions_far_beyond_int32_are_those_of_pythons_own_integers(step):
    lengths, length, batch, seed = (3 * 10**12 + 7, 2**31 + 5), 2048, 2016, 2**63 + 11
    order = SampleOrder(lengths, [2, 1], length, batch, seed)
    sizes = [(each - 1) // length for each in lengths]
    sets, starts, epochs = (column.tolist() for column in order.locate(step))
    for row in (0, 1, 1000, batch - 1):
        # Weights of 2 and 1 are places of the sets 0, 1 and 0.
        cycle, place = divmod(step * batch + row, 3)
        which, count = (1, cycle) if place == 1 else (0, 2 * cycle + place // 2)
        epoch, index = divmod(count, sizes[which])
        sample = exact_permutation(index, sizes[which], seed, which, epoch)
        assert (sets[row], starts[row], epochs[row]) == (which, sample * length, epoch)
        assert order.batch_row(which, sample, epoch) == (step, row)
        if epoch == 0:
            first = sample * length + 1
            seen = order.occurrences(which, first, first + 1, steps=step + 1)
            assert seen == [(step, row, sample)]
    assert step < 10**6 or max(starts) > 2**40
