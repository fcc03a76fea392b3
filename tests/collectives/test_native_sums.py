"""Sums of our own between ranks in one process: they are right, alike, and never hang."""

import random
import threading
import time

import ml_dtypes
import numpy as np
import pytest
from native_ranks import Ranks, SumError

from fugaku_jax.collectives import native

pytestmark = pytest.mark.skipif(not native.available(), reason="no native library was built")

SHAPES = ({"x": 2, "y": 3, "z": 2}, {"x": 2, "y": 2}, {"b": 3, "x": 3}, {"x": 5}, {"x": 2, "y": 4})
DTYPES = ("float32", "bfloat16", "float16", "int32")
BITS = {"float32": 24, "bfloat16": 8, "float16": 11}


def draw(generator, dtype, shape):
    if dtype == "int32":
        return generator.integers(-(2**31), 2**31, shape).astype(np.int32)
    # The least fp16 that is not 0 is 6e-8: what is below the normal numbers has other roundings.
    values = generator.uniform(1, 100, shape) * generator.choice([-1, 1])
    return values.astype(np.dtype(getattr(ml_dtypes, dtype, dtype)))


def total(inputs):
    if inputs[0].dtype == np.int32:
        return np.sum([x.astype(np.int64) for x in inputs], 0).astype(np.int32)  # wraps round
    return np.sum([x.astype(np.float64) for x in inputs], 0)


def check_sum(found, inputs):
    exact = total(inputs)
    if found.dtype == np.int32:
        return np.testing.assert_array_equal(found, exact)
    size = np.sum([abs(x.astype(np.float64)) for x in inputs], 0)
    # One rounding to its type, by half a unit of the last bit, and in fp32 those of a dozen sums.
    half_unit = 2.0 ** (np.frexp(exact)[1] - 1 - BITS[found.dtype.name])
    allowed = half_unit + 2e-6 * size
    assert (abs(found.astype(np.float64) - exact) <= allowed).all()
    return None


def groups(ranks, axes):
    """The ranks that a call over some axes brings together, in the order of these."""
    found = {}
    for rank, place in enumerate(ranks.places):
        others = tuple(place[axis] for axis in ranks.axes if axis not in axes)
        found.setdefault(others, []).append((tuple(place[axis] for axis in axes), rank))
    return [[rank for _, rank in sorted(group)] for group in found.values()]


def one_round(ranks, seed):
    generator = np.random.default_rng(seed)
    axes = list(ranks.axes)
    generator.shuffle(axes)
    axes = axes[: generator.integers(1, len(axes) + 1)]
    dtype = DTYPES[generator.integers(len(DTYPES))]
    devices = int(np.prod([ranks.axes[axis] for axis in axes]))
    length = int(10 ** generator.uniform(0, 4.5))
    kind = ("all_reduce", "reduce_scatter", "all_gather")[generator.integers(3)]
    shape = (devices, length) if kind == "reduce_scatter" else (length,)
    inputs = [draw(generator, dtype, shape) for _ in ranks.places]
    results = ranks.run(kind, inputs, axes, tag=seed)
    for group in groups(ranks, axes):
        own = [inputs[rank] for rank in group]
        for place, rank in enumerate(group):
            if kind == "all_gather":
                np.testing.assert_array_equal(results[rank], own)
            elif kind == "reduce_scatter":
                check_sum(results[rank], [x[place] for x in own])
            else:
                check_sum(results[rank], own)
                np.testing.assert_array_equal(results[rank], results[group[0]])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_random_calls_give_sums_and_gathers(shape):
    with Ranks(**shape) as ranks:
        for seed in range(10):
            one_round(ranks, seed)


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_two_hundred_random_calls_give_sums_and_gathers(shape):
    with Ranks(**shape) as ranks:
        for seed in range(1000, 1200):
            one_round(ranks, seed)


def test_sums_are_the_same_to_the_last_bit_on_all_ranks_and_whoever_is_late():
    generator = np.random.default_rng(0)
    with Ranks(x=2, y=3, z=2) as ranks:
        inputs = [draw(generator, "float32", 300_000) for _ in ranks.places]
        axes, found = list(ranks.axes), []
        for tag, late in enumerate((None, 0, 7)):

            def one(rank, late=late, tag=tag):
                if rank == late:
                    time.sleep(0.3)
                return ranks.one(rank, "all_reduce", inputs[rank], axes, tag)

            found += ranks.pool.map(one, range(12))
        for each in found:
            np.testing.assert_array_equal(each, found[0])
        check_sum(found[0], inputs)


def test_calls_may_begin_in_another_order_on_each_rank():
    generator = np.random.default_rng(0)
    with Ranks(x=2, y=2) as ranks:
        inputs = {
            tag: [draw(generator, "float32", 50_000) for _ in ranks.places] for tag in range(6)
        }
        found = {}

        def one(rank, tag):
            found[rank, tag] = ranks.one(rank, "all_reduce", inputs[tag][rank], ["x", "y"], tag)

        threads = []
        for rank in range(4):
            order = list(inputs)
            random.Random(rank).shuffle(order)
            threads += [threading.Thread(target=one, args=(rank, tag)) for tag in order]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        for (_, tag), result in found.items():
            check_sum(result, inputs[tag])
        assert len(found) == 24


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (np.ones(200, np.float32), "an all-reduce of 200 float32"),
        (np.ones(100, np.float16), "an all-reduce of 100 float16"),
        (np.ones(0, np.float32), "an all-reduce of 0 float32"),
        (np.ones(500_000, np.float32), "an all-reduce of 500000 float32"),
    ],
    ids=["longer", "another type", "empty", "much longer"],
)
def test_a_rank_that_brings_something_else_is_an_error_on_all_of_them(other, said):
    with Ranks(x=2, y=3) as ranks:

        def one(rank):
            x = other if rank == 4 else np.ones(100, np.float32)
            with pytest.raises(SumError) as error:
                ranks.one(rank, "all_reduce", x, ["x", "y"])
            return str(error.value)

        for text in ranks.pool.map(one, range(6)):
            assert said in text
            assert "an all-reduce of 100 float32" in text
            assert "rank 4" in text


def test_a_rank_that_ends_in_a_sum_is_named_by_all_others():
    with Ranks(x=2, y=3) as ranks:
        others = [rank for rank in range(6) if rank != 4]

        def one(rank):
            with pytest.raises(SumError) as error:
                ranks.one(rank, "all_reduce", np.ones(1000, np.float32), ["x", "y"])
            return str(error.value)

        waiting = [ranks.pool.submit(one, rank) for rank in others]
        time.sleep(0.2)
        assert not any(each.done() for each in waiting)  # who is late is waited for
        ranks.links[4].close()
        for each in waiting:
            # Who has not begun by then is told so in other words.
            assert each.result(10).startswith(("rank 4 ended in the middle", "rank 4 has ended"))
        # And so is any later sum.
        assert one(0).startswith("rank 4 ended")


def test_a_rank_may_leave_when_its_own_sum_has_ended():
    with Ranks(x=2, y=3) as ranks:
        for tag in range(3):

            def one(rank, tag=tag):
                y = ranks.one(rank, "all_reduce", np.ones(5000, np.float32), ["x", "y"], tag)
                if tag == 2:
                    ranks.links[rank].close()
                return y

            for y in ranks.pool.map(one, range(6)):
                assert (y == 6).all()
