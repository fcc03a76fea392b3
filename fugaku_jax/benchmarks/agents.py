"""Tokens a second of many prompts that begin alike, side by side and one after the other.

Both are answered by one engine in one process, in turn. What the prompts begin with was computed
before, for both.
"""

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from fugaku_jax.benchmarks.generation import GenerationShape, make_engine
from fugaku_jax.inference.continuation import Options
from fugaku_jax.inference.weights import Weights

SHAPE = GenerationShape(prompt_tokens=220, new_tokens=32)
"""The model, and each prompt: 200 tokens are common, 20 are its own."""
COMMON = 200
ROUNDS = 2


def run(
    prompts: int = 2000,
    alone: int = 50,
    slots: int = 64,
    weights: Weights = None,
    shape: GenerationShape = SHAPE,
    say: Callable[[str], object] = lambda _: None,
) -> dict[str, Any]:
    """Measure both.

    Args:
        prompts: how many are answered side by side.
        alone: how many are answered one after the other.
        slots: most that are answered at once.
        weights: type of the weights, if not bf16.
        shape: the model and the lengths.
        say: is told what was measured as it goes.

    Returns:
        `side_by_side` and `one_by_one`, new tokens a second, and the `ratio` of the two.
    """
    engine = make_engine(shape, slots, weights)
    options = Options(shape.new_tokens, temperature=0.0)
    random = np.random.default_rng(0)
    common = random.integers(0, shape.vocab_size, min(COMMON, shape.prompt_tokens - 1)).tolist()

    def asked(count: int) -> list[tuple[list[int], Options]]:
        own = random.integers(0, shape.vocab_size, (count, shape.prompt_tokens - len(common)))
        return [(common + each.tolist(), options) for each in own]

    list(engine.answers(asked(1)))
    tokens, seconds = {}, {}
    for _ in range(ROUNDS):
        for name, count, at_once in (
            ("one_by_one", alone // ROUNDS, 1),
            ("side_by_side", prompts // ROUNDS, prompts),
        ):
            requests = asked(count)
            start = time.perf_counter()
            found = 0
            for first in range(0, count, at_once):
                rows = engine.answers(requests[first : first + at_once])
                found += sum(len(row.tokens) for row in rows)
            seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - start
            tokens[name] = tokens.get(name, 0) + found
            say(f"{name}: {tokens[name] / seconds[name]:.1f} tokens/s")
    speeds = {name: tokens[name] / seconds[name] for name in tokens}
    return speeds | {"ratio": speeds["side_by_side"] / speeds["one_by_one"]}
