"""The generation benchmark works at toy size; its figures are for `launch/bench.py`."""

import pytest

from fugaku_jax.benchmarks.generation import CONTENDERS, GenerationShape, run

pytestmark = pytest.mark.slow

TOY = GenerationShape(
    n_layers=1, d_model=32, n_heads=2, vocab_size=256, prompt_tokens=8, new_tokens=4
)


def test_ours_and_transformers_generate_as_many_tokens():
    told: list[str] = []
    figures = run(rounds=1, calls=2, batches=(1, 3), shape=TOY, say=told.append)
    rows = figures["contenders"]
    assert {(row["contender"], row["batch"]) for row in rows} == {
        (name, batch) for name in CONTENDERS for batch in (1, 3)
    }
    assert len(told) == 4
    speed = {}
    for row in rows:
        assert row["timed_calls"] == 2
        slowest, fastest = row["tokens_per_second_min"], row["tokens_per_second_max"]
        assert 0 < slowest <= row["tokens_per_second"] <= fastest
        speed[row["contender"], row["batch"]] = row["tokens_per_second"]
    for batch in (1, 3):
        ratio = speed["fugaku_jax", batch] / speed["transformers", batch]
        assert figures[f"ratio_batch_{batch}"] == pytest.approx(ratio)


def test_a_contender_that_fails_is_named_with_its_error():
    with pytest.raises(RuntimeError, match="The contender fugaku_jax failed"):
        run(
            rounds=1,
            calls=1,
            batches=(1,),
            shape=GenerationShape(n_layers=1, d_model=32, n_heads=5),
        )
