"""Steps of two nodes on a slow link are measured, and what travels meanwhile is drawn."""

import itertools

import pytest

from fugaku_jax.benchmarks import overlap
from fugaku_jax.benchmarks.draw_journeys import draw_journeys
from fugaku_jax.benchmarks.scaling import ScalingShape
from fugaku_jax.collectives.started import Journey
from fugaku_jax.errors import InputError

TOY = ScalingShape(n_layers=3, d_model=32, n_heads=2, sequence_length=16, rows=1, vocab_size=64)


@pytest.mark.slow
@pytest.mark.usefixtures("unshare")
def test_the_sum_of_each_layer_starts_before_the_one_before_it_is_done_with(tmp_path):
    rows = overlap.run(100, 1, tmp_path / "overlap.svg", TOY)
    assert [row["contender"] for row in rows] == ["flat", "torus"]
    journeys = [Journey(*each) for each in rows[1]["journeys"]]
    assert len(journeys) == TOY.n_layers
    for one, following in itertools.pairwise(journeys):
        assert one.started < following.started < one.asked <= one.given
        assert one.started < one.ended <= one.given
    assert (tmp_path / "overlap.svg").read_text().startswith("<?xml")


def test_a_picture_has_a_row_for_each_sum(tmp_path):
    journeys = [Journey(0.0, 0.5, 1.2, 1.3, 4e6), Journey(1.0, 1.5, 2.0, 2.0, 4e6)]
    text = draw_journeys(journeys, tmp_path / "one.svg").read_text()
    assert text.count("4.0 MB") >= 2
    with pytest.raises(InputError, match=r"let it end in \.svg"):
        draw_journeys(journeys, tmp_path / "one.png")
