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
        # Three eighths of the bytes go each way over a link, twice.
        assert row["modelled_seconds"] == pytest.approx(2 * 0.375 * row["bytes"] * 8 / 100e6)


@pytest.mark.parametrize("shape", ["2x", "0x3", "1x1", "2x2x2x2x2x2x2", "torus"])
def test_what_is_no_shape_is_refused(shape):
    with pytest.raises(InputError, match=f"The shape is {shape}; write it as 2x3x2"):
        torus.run((shape,))


def test_without_the_programs_a_sentence_says_what_is_missing(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(InputError, match=r"lacks unshare and ip and tc.*run this as root"):
        namespaces()
