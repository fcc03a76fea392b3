"""A torus of slow links is wired, and what is measured on it is told."""

import pytest

from fugaku_jax.benchmarks import torus
from fugaku_jax.benchmarks.wiring import namespaces
from fugaku_jax.errors import InputError


@pytest.mark.slow
def test_all_reduces_are_measured_on_a_torus_of_slow_links(unshare):
    assert namespaces() == unshare or set(namespaces()) == set(unshare)
    rows = torus.run(("2x2",), (0.2, 0.4), megabits=100, rounds=1)
    assert [row["shape"] for row in rows] == ["2x2", "2x2"]
    assert [row["bytes"] for row in rows] == [200_000, 400_000]
    for row in rows:
        assert row["ratio_to_flat"] == row["flat_seconds"] / row["ours_seconds"]
        assert row["modelled_seconds"] < row["flat_modelled_seconds"]


@pytest.mark.parametrize(
    ("shape", "ours", "flat"),
    [
        ((2, 2), 3 / 8, 3 / 4),
        ((2, 3, 2), 67 / 288, 11 / 12),  # the least is 11/48; slices of 1/48 come near it
    ],
)
def test_what_is_modelled_is_at_least_what_the_busiest_link_carries_and_little_more(
    shape, ours, flat
):
    nbytes, megabits = 64_000_000, 50
    found = torus.modelled(shape, megabits, nbytes)
    for name, share in (("modelled_seconds", ours), ("flat_modelled_seconds", flat)):
        least = 2 * share * nbytes * 8 / (megabits * 1e6)
        assert least < found[name] < 1.1 * least


@pytest.mark.parametrize("shape", ["2x", "0x3", "1x1", "2x2x2x2x2x2x2", "torus"])
def test_what_is_no_shape_is_refused(shape):
    with pytest.raises(InputError, match=f"The shape is {shape}; write it as 2x3x2"):
        torus.run((shape,))


def test_without_the_programs_a_sentence_says_what_is_missing(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(InputError, match=r"lacks unshare and ip and tc.*run this as root"):
        namespaces()
