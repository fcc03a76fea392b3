"""Rows that dialogues are packed into."""

import random

import pytest

from fugaku_jax.tuning import packing
from fugaku_jax.tuning.packing import Packer


@pytest.mark.parametrize("open_rows", [1, 4, 256])
def test_each_dialogue_is_in_one_row_that_holds_it(monkeypatch, open_rows):
    monkeypatch.setattr(packing, "OPEN_ROWS", open_rows)
    draw = random.Random(open_rows)
    lengths = [draw.randint(1, 64) for _ in range(2000)]
    packer, rows = Packer[int](64), []
    for item, length in enumerate(lengths):
        rows += packer.add(item, length)
    rows += packer.rest()
    assert sorted(item for items, _ in rows for item in items) == list(range(2000))
    assert all(sum(lengths[i] for i in items) + left == 64 for items, left in rows)
    # First fit takes at most 1.7 times the rows that there must be, plus one (Johnson 1973); with
    # few of them open it is next fit's 2.
    assert len(rows) <= (1.7 if open_rows == 256 else 2) * sum(lengths) / 64 + 1


def test_little_of_a_row_is_empty():
    draw = random.Random(0)
    lengths = [int(min(max(draw.lognormvariate(5, 0.8), 8), 1024)) for _ in range(5000)]
    packer, rows = Packer[int](1024), 0
    for item, length in enumerate(lengths):
        rows += len(list(packer.add(item, length)))
    rows += len(list(packer.rest()))
    assert rows * 1024 < 1.05 * sum(lengths)
