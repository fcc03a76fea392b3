"""The schedule of sets follows the weights and can be inverted."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fugaku_jax.data.mixture import LONGEST_PERIOD, Mixture, integer_parts
from fugaku_jax.errors import InputError

# Billions of tokens of the 34 sets of Fugaku-LLM.
FUGAKU = (
    "1.594 31.809 22.976 14.184 14.441 13.821 16.717 16.635 22.117 25.942 37.327 21.534 14.300 "
    "11.254 11.956 5.309 31.674 9.563 0.370 0.0107 0.348 0.423 0.134 0.0092 4.603 2.589 6.484 "
    "5.085 11.068 14.681 16.945 2.159 0.974 10.966"
)


def largest_deviation(mixture: Mixture, count: int) -> float:
    """The largest |taken - w·k| over all sets and all k up to `count`."""
    sets, _ = mixture.locate(np.arange(count))
    taken = np.cumsum(np.arange(len(mixture.parts)) == sets[:, None], axis=0)
    ideal = np.arange(1, count + 1)[:, None] * mixture.parts / mixture.period
    return float(np.abs(taken - ideal).max())


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=12).filter(any))
def test_every_set_is_within_one_sample_of_its_weight_at_every_place(weights):
    mixture = Mixture(weights)
    assert largest_deviation(mixture, 2 * mixture.period + 3) < 1


def test_the_mixture_of_fugaku_llm_is_followed_to_within_one_sample():
    mixture = Mixture([float(weight) for weight in FUGAKU.split()])
    assert len(mixture.parts) == 34
    assert mixture.period == LONGEST_PERIOD
    assert largest_deviation(mixture, 40_000) < 1 - 1 / (2 * 34 - 2) + 1e-9


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=8).filter(any), st.data())
def test_place_inverts_locate(weights, data):
    mixture = Mixture(weights)
    place = data.draw(st.integers(0, 5 * mixture.period))
    sets, counts = mixture.locate(np.array([place]))
    # A fresh one has worked nothing out yet, so the two ways are checked on their own.
    assert Mixture(weights).place(int(sets[0]), int(counts[0])) == place


def test_only_as_much_of_a_period_is_worked_out_as_is_asked_for():
    mixture = Mixture([1, 999_998, 1])
    mixture.locate(np.arange(100))
    assert len(mixture._sets) < 10_000


def test_decimal_weights_are_taken_as_they_are_written():
    assert integer_parts([0.1, 0.2, 0.3]) == [1, 2, 3]
    assert integer_parts([54.4, 31.4, 7.8, 6.4]) == [272, 157, 39, 32]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 1e12), min_size=1, max_size=20).filter(any))
def test_rounded_weights_are_within_a_millionth_of_the_true_share(weights):
    parts = integer_parts(weights)
    exact = [Fraction(str(weight)) for weight in weights]
    for part, weight in zip(parts, exact, strict=True):
        share = Fraction(part, sum(parts))
        # One part by rounding; sets that were lifted to one part can take as much from the others.
        assert abs(share - weight / sum(exact)) <= Fraction(1 + len(parts), LONGEST_PERIOD)
        assert (part > 0) == (weight > 0)


@pytest.mark.parametrize("weights", [[1.0, -0.5], [0, 0], [float("nan"), 1], [float("inf"), 1]])
def test_wrong_weights_are_refused(weights):
    with pytest.raises(InputError, match="weight"):
        integer_parts(weights)
