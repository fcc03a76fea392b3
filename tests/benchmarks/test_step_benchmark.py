"""The step benchmark works at toy size; its figures at full size are for `launch/bench.py`."""

import math

import pytest
from step import Shape, _with_ratios, run

TOY = Shape(n_layers=1, d_model=32, n_heads=2, sequence_length=16, batch_size=2, vocab_size=256)


def test_ours_and_pytorch_take_the_same_step_from_scratch():
    told: list[str] = []
    contenders = ("jax_fp32", "torch_bf16")
    rows = run(rounds=1, steps=2, contenders=contenders, shape=TOY, warmup=1, say=told.append)
    assert [row["contender"] for row in rows] == list(contenders)
    assert len(told) == 2
    for row in rows:
        assert row["timed_steps"] == 2
        slowest, fastest = row["tokens_per_second_min"], row["tokens_per_second_max"]
        assert 0 < slowest <= row["tokens_per_second"] <= fastest
        assert row["peak_memory_bytes"] > 10_000_000
        # Untrained weights are near uniform: log V nats, and three small steps change little.
        assert row["loss"] == pytest.approx(math.log(TOY.vocab_size), rel=0.05)


def test_ratios_are_to_the_named_contender_and_absent_without_it():
    fast = {"contender": "jax_bf16", "tokens_per_second": 300.0, "peak_memory_bytes": 2.0}
    slow = {"contender": "torch_compile_bf16", "tokens_per_second": 200.0, "peak_memory_bytes": 4.0}
    rows = _with_ratios([fast, slow])
    assert rows[0]["ratio_to_torch_compile_bf16"] == 1.5
    assert rows[0]["memory_ratio"] == 0.5
    assert rows[1]["ratio_to_torch_compile_bf16"] == 1.0
    assert "ratio_to_torch_fp32" not in rows[0]


def test_a_contender_that_fails_is_named_with_its_error():
    with pytest.raises(RuntimeError, match="jax_fp33"):
        run(rounds=1, steps=1, contenders=("jax_fp33",), shape=TOY)
