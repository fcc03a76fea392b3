"""The generation benchmark works at toy size; its figures are for `launch/bench.py`."""

import dataclasses
import importlib.util

import pytest

from fugaku_jax.benchmarks import agents
from fugaku_jax.benchmarks.generation import CONTENDERS, LLAMA_CPP, GenerationShape, run

pytestmark = pytest.mark.slow

TOY = GenerationShape(
    n_layers=1, d_model=32, n_heads=2, vocab_size=256, prompt_tokens=8, new_tokens=4
)


@pytest.fixture
def without_llama_cpp(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "llama_cpp" else find(name)
    )


@pytest.mark.usefixtures("without_llama_cpp")
def test_ours_and_transformers_generate_as_many_tokens():
    told: list[str] = []
    figures = run(rounds=1, calls=2, batches=(1, 3), shape=TOY, say=told.append)
    rows = figures["contenders"]
    assert {(row["contender"], row["batch"]) for row in rows} == {
        (name, batch) for name in CONTENDERS for batch in (1, 3)
    }
    assert len(told) == 6
    speed = {}
    for row in rows:
        assert row["timed_calls"] == 2
        slowest, fastest = row["tokens_per_second_min"], row["tokens_per_second_max"]
        assert 0 < slowest <= row["tokens_per_second"] <= fastest
        speed[row["contender"], row["batch"]] = row["tokens_per_second"]
    ours = speed["fugaku_jax", 3]
    assert figures["ratio_batch_3"] == pytest.approx(ours / speed["transformers", 3])
    int8 = speed["fugaku_jax int8", 3] / speed["transformers", 3]
    assert figures["ratio_int8_batch_3"] == pytest.approx(int8)
    assert figures["aggregate_batch_3"] == pytest.approx(ours / speed["transformers", 1])
    int8 = speed["fugaku_jax int8", 3]
    assert figures["aggregate_int8_batch_3"] == pytest.approx(int8 / speed["transformers", 1])


def test_prompts_that_begin_alike_are_answered_both_ways():
    found = agents.run(prompts=6, alone=2, slots=3, shape=TOY)
    assert found["ratio"] == pytest.approx(found["side_by_side"] / found["one_by_one"])


@pytest.mark.llama_cpp
def test_llama_cpp_is_a_contender_where_it_is_installed():
    shape = dataclasses.replace(TOY, vocab_size=4096)  # as the built-in tokenizer has
    figures = run(rounds=1, calls=2, batches=(1, 3), shape=shape)
    rows = {(row["contender"], row["batch"]): row for row in figures["contenders"]}
    for batch in (1, 3):
        ours, theirs = (
            rows[name, batch]["tokens_per_second"] for name in (CONTENDERS[0], LLAMA_CPP)
        )
        assert figures[f"ratio_to_llama_cpp_batch_{batch}"] == pytest.approx(ours / theirs)


def test_a_contender_that_fails_is_named_with_its_error():
    with pytest.raises(RuntimeError, match="The contender fugaku_jax failed"):
        run(
            rounds=1,
            calls=1,
            batches=(1,),
            shape=GenerationShape(n_layers=1, d_model=32, n_heads=5),
        )
