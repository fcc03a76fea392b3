"""Learning rates, held to float64: of every recipe, at lengths no test could train."""

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fugaku_jax.config import Config, OptimizerConfig
from fugaku_jax.errors import InputError
from fugaku_jax.training.learning_rate import make_learning_rate


def exact_rate(config: Config, step: int) -> float:
    """The rate of a step, counted from 0, in tokens and in float64."""
    optimizer, run = config.optimizer, config.training.steps * config.tokens_per_step
    seen = (step + 1) * config.tokens_per_step
    peak, low, warmup = (
        optimizer.learning_rate,
        optimizer.min_learning_rate,
        optimizer.warmup_tokens,
    )
    if seen < warmup:
        return peak * seen / warmup
    if optimizer.schedule == "cosine":
        share = (seen - warmup) / ((optimizer.decay_tokens or run) - warmup)
        return low + (peak - low) * 0.5 * (1 + math.cos(math.pi * min(share, 1)))
    share = (run - seen) / (optimizer.decay_tokens or run / 10)
    return low + (peak - low) * min(share, 1)


def rates(config: Config, *steps: int) -> list[float]:
    """What the schedule says, traced as the step traces it."""
    return [float(jax.jit(make_learning_rate(config))(jnp.int32(step))) for step in steps]


def test_rates_of_every_recipe_are_those_of_float64_to_a_few_roundings(recipe):
    last = recipe.training.steps - 1
    beyond = recipe.training.steps + 1000
    steps = (0, 1, last // 100, last // 2, last - 1, last, beyond)
    expected = [exact_rate(recipe, step) for step in steps]
    np.testing.assert_allclose(rates(recipe, *steps), expected, rtol=1e-6)


def test_wsd_over_trillions_of_tokens_ends_at_its_minimum_to_the_last_bit(recipes):
    original = recipes["fugaku_llm_13b"]
    optimizer = replace(
        original.optimizer, schedule="wsd", decay_tokens=10**12, min_learning_rate=0.0
    )
    training = replace(original.training, steps=2_000_003)
    config = replace(original, optimizer=optimizer, training=training)
    steps = (0, 1000, 1_600_000, 1_757_796, 1_900_000, 2_000_001, 2_000_002)
    expected = [exact_rate(config, step) for step in steps]
    found = rates(config, *steps)
    assert found[-1] == expected[-1] == 0
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_wider_step_gets_a_wider_rate(config):
    with jax.enable_x64(True):
        found = make_learning_rate(config)(jnp.float64(5))
    assert found.dtype == jnp.float64
    assert float(found) == pytest.approx(exact_rate(config, 5), rel=1e-14)
    assert make_learning_rate(config)(jnp.int32(5)).dtype == jnp.float32


def test_cosine_rises_falls_and_stays(change):
    config = change(
        optimizer={"min_learning_rate": 1e-3, "warmup_tokens": 128, "decay_tokens": 384},
    )
    assert config.tokens_per_step == 64
    seen = np.array([128, 192, 256, 320, 384])
    falling = 1e-3 + 9e-3 * 0.5 * (1 + np.cos(np.pi * (seen - 128) / 256))
    expected = [5e-3, *falling, 1e-3, 1e-3]
    np.testing.assert_allclose(rates(config, *range(8)), expected, rtol=1e-6)


def test_wsd_is_stable_until_its_linear_decay(change):
    config = change(
        optimizer={"schedule": "wsd", "warmup_tokens": 128, "decay_tokens": 256},
    )
    expected = [5e-3, 1e-2, 1e-2, 1e-2, 7.5e-3, 5e-3, 2.5e-3, 0.0]
    np.testing.assert_allclose(rates(config, *range(8)), expected, rtol=1e-6)


@pytest.mark.parametrize("schedule", ["cosine", "wsd"])
@pytest.mark.parametrize("warmup", [500, 512, 1024])
def test_a_run_that_ends_in_its_warm_up_only_rises(change, schedule, warmup):
    config = change(optimizer={"schedule": schedule, "warmup_tokens": warmup})
    assert config.total_tokens == 512
    expected = [1e-2 * min(64 * step / warmup, 1) for step in range(1, 9)]
    if warmup == 500:  # reached in the middle of the last step, at whose end all has fallen
        expected[-1] = 0
    np.testing.assert_allclose(rates(config, *range(8)), expected, rtol=1e-6)


@pytest.mark.parametrize(("warmup", "decay"), [(1500, 700), (700, 700)])
def test_a_cosine_that_ends_before_its_warm_up_is_refused(warmup, decay):
    sentence = (
        rf"optimizer\.decay_tokens is {decay}, but it must be greater than "
        rf"optimizer\.warmup_tokens, {warmup}, after which a cosine begins to fall\."
    )
    with pytest.raises(InputError, match=sentence):
        OptimizerConfig(learning_rate=1e-3, warmup_tokens=warmup, decay_tokens=decay)
    OptimizerConfig(learning_rate=1e-3, warmup_tokens=decay - 1, decay_tokens=decay)


def test_a_decay_that_begins_in_the_warm_up_is_refused(change):
    wsd = {"schedule": "wsd", "warmup_tokens": 300}
    sentence = (
        r"optimizer\.decay_tokens is 213, but it must be at most what optimizer\.warmup_tokens, "
        r"300, leave of the run's 512 tokens\."
    )
    with pytest.raises(InputError, match=sentence):
        change(optimizer=wsd | {"decay_tokens": 213})
    change(optimizer=wsd | {"decay_tokens": 212})
