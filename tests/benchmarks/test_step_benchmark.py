"""The step benchmark works at toy size; its figures at full size are for `launch/bench.py`."""

import math

import pytest

from fugaku_jax.benchmarks.contenders import StepShape
from fugaku_jax.benchmarks.step import ALLOCATORS, _ratios, run

pytestmark = pytest.mark.slow

TOY = StepShape(n_layers=1, d_model=32, n_heads=2, sequence_length=16, batch_size=2, vocab_size=256)


def test_ours_and_pytorch_take_the_same_step_from_scratch():
    told: list[str] = []
    contenders = ("jax_fp32", "torch_bf16")
    figures = run(rounds=1, steps=2, contenders=contenders, shape=TOY, warmup=1, say=told.append)
    rows = figures["contenders"]
    found = [(row["allocator"], row["contender"]) for row in rows]
    assert found == [(each, name) for each in ("own", "same") for name in contenders]
    assert len(told) == 4
    for row in rows:
        assert row["timed_steps"] == 2
        slowest, fastest = row["tokens_per_second_min"], row["tokens_per_second_max"]
        assert 0 < slowest <= row["tokens_per_second"] <= fastest
        assert row["peak_memory_bytes"] > 10_000_000
        # Untrained weights are near uniform: log V nats, and three small steps change little.
        assert row["loss"] == pytest.approx(math.log(TOY.vocab_size), rel=0.05)
    # Nobody took part whom one of the two would be compared with.
    assert figures["same_allocator"] == {"variables": ALLOCATORS["same"]}
    assert figures.keys() == {"contenders", "same_allocator"}


def row(name, speed, memory, allocator="own"):
    return {
        "contender": name,
        "allocator": allocator,
        "tokens_per_second": speed,
        "peak_memory_bytes": memory,
    }


def test_ratios_are_to_the_contenders_of_their_names_the_faster_of_two():
    rows = [
        row("jax_bf16", 300.0, 2.0),
        row("torch_compile_bf16", 200.0, 4.0),
        row("jax_fp32", 90.0, 3.0),
        row("torch_fp32", 30.0, 1.0),
        row("torch_compile_fp32", 45.0, 1.0),
        row("jax_bf16", 500.0, 1.0, "same"),
        row("torch_compile_bf16", 250.0, 5.0, "same"),
    ]
    own = {"ratio_to_torch_compile_bf16": 1.5, "ratio_to_torch_fp32": 2.0, "memory_ratio": 0.5}
    assert _ratios(rows, "own") == own
    assert _ratios(rows, "same") == {"ratio_to_torch_compile_bf16": 2.0, "memory_ratio": 0.2}


def test_a_contender_that_fails_is_named_with_its_error():
    with pytest.raises(RuntimeError, match="jax_fp33"):
        run(rounds=1, steps=1, contenders=("jax_fp33",), shape=TOY)
