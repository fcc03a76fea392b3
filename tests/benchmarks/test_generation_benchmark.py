"""The generation benchmark works at toy size; its figures are for `launch/bench.py`."""

import pytest

from fugaku_jax.benchmarks.generation import CONTENDERS, GenerationShape, run

pytestmark = pytest.mark.slow

TOY = GenerationShape(
    n_layers=1, d_model=32, n_heads=2, vocab_size=256, prompt_tokens=8, new_tokens=4
)


def test_ours_and_transformers_generate_as_many_tokens():
    told: list[str] = []
    figures = run(rounds=1, calls=2, batches=(3,), shape=TOY, say=told.append)
    rows = figures["contenders"]
    assert {(row["contender"], row["batch"]) for row in rows} == {(name, 3) for name in CONTENDERS}
    assert len(told) == 2
    speed = {}
    for row in rows:
        assert row["timed_calls"] == 2
        slowest, fastest = row["tokens_per_second_min"], row["tokens_per_second_max"]
        assert 0 < slowest <= row["tokens_per_second"] <= fastest
        speed[row["contender"]] = row["tokens_per_second"]
    assert figures["ratio_batch_3"] == pytest.approx(speed["fugaku_jax"] / speed["transformers"])


def test_a_contender_that_fails_is_named_with_its_error():
    with pytest.raises(RuntimeError, match="The contender fugaku_jax failed"):
        run(
            rounds=1,
            calls=1,
            batches=(1,),
            shape=GenerationShape(n_layers=1, d_model=32, n_heads=5),
        )
