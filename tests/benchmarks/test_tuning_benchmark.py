"""The tuning benchmark works at toy size; its figures at full size are for `launch/bench.py`."""

import math

import pytest

from fugaku_jax.benchmarks.contenders import StepShape
from fugaku_jax.benchmarks.tuning import run

pytestmark = pytest.mark.slow

TOY = StepShape(n_layers=1, d_model=64, n_heads=2, sequence_length=16, batch_size=2, vocab_size=512)


def test_ours_and_trl_take_the_same_step_from_scratch():
    told: list[str] = []
    contenders = ("ours_full_fp32", "ours_lora_fp32", "trl_lora_fp32", "trl_full_bf16")
    figures = run(rounds=1, steps=2, contenders=contenders, shape=TOY, warmup=1, say=told.append)
    rows = {row["contender"]: row for row in figures["contenders"]}
    assert tuple(rows) == contenders
    assert len(told) == 4
    for row in rows.values():
        assert row["timed_steps"] == 2
        # Untrained weights are near uniform: log V nats, and three small steps change little.
        assert row["loss"] == pytest.approx(math.log(TOY.vocab_size), rel=0.05)
    # Both hold as much for adapters: of the same matrices the gradient, and AdamW's moments.
    assert rows["ours_lora_fp32"]["learned_bytes"] == rows["trl_lora_fp32"]["learned_bytes"]
    ratio = rows["ours_lora_fp32"]["learned_bytes"] / rows["ours_full_fp32"]["learned_bytes"]
    # Nobody took part whom one of the others would be compared with.
    assert figures.keys() == {"contenders", "ratio_lora_fp32", "learned_bytes_ratio_fp32"}
    assert figures["learned_bytes_ratio_fp32"] == ratio < 0.3
