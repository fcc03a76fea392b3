"""What may be chosen is as in `transformers`, and how often as NumPy computes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import (
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from fugaku_jax.inference.sampler import Choice, penalise, sample
from fugaku_jax.kernels.draw import keep_top_k, keep_top_p

V = 1003


def logits_of(rows, seed=0, scale=3.0):
    return np.random.default_rng(seed).normal(0, scale, (rows, V)).astype(np.float32)


def choice(rows, **changed):
    values = {
        "temperature": 1.0,
        "top_k": 0,
        "top_p": 1.0,
        "repetition_penalty": 1.0,
        "seed": np.arange(rows),
    } | changed
    kinds = {"top_k": jnp.int32, "seed": jnp.uint32}
    return Choice(
        **{
            name: jnp.asarray(np.broadcast_to(value, rows), kinds.get(name, jnp.float32))
            for name, value in values.items()
        }
    )


# Each is compiled as one program, as in generation.
draw = jax.jit(sample, static_argnums=1)
top_k, top_p, penalised = map(jax.jit, (keep_top_k, keep_top_p, penalise))


def sampled(logits, number=0, pieces=V, tokens=None, **changed):
    rows = len(logits)
    held = jnp.zeros((rows, 4), jnp.int32) if tokens is None else jnp.asarray(tokens, jnp.int32)
    count = jnp.full(rows, held.shape[1] if tokens is not None else 0, jnp.int32)
    numbers = jnp.full(rows, number, jnp.int32)
    how = choice(rows, **changed)
    return draw(jnp.asarray(logits), V, held, count, numbers, jnp.int32(pieces), how)


@pytest.mark.parametrize("k", [1, 2, 50, V, V + 7])
def test_top_k_is_that_of_transformers(k):
    logits = logits_of(3)
    logits[1, 5:9] = logits[1].max()  # equal ones stay together
    want = TopKLogitsWarper(k)(torch.zeros(3, 1), torch.from_numpy(logits)).numpy()
    np.testing.assert_array_equal(top_k(jnp.asarray(logits), jnp.full(3, k)), want)


@pytest.mark.parametrize("p", [0.01, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("scale", [0.1, 3.0, 30.0])
def test_top_p_is_that_of_transformers(p, scale):
    logits = logits_of(4, scale=scale)
    want = TopPLogitsWarper(p)(torch.zeros(4, 1), torch.from_numpy(logits)).numpy()
    got = np.asarray(top_p(jnp.asarray(logits), jnp.full(4, p, jnp.float32)))
    different = np.isinf(got) != np.isinf(want)
    # A token may be on the border, where another order of the sum decides.
    probability = np.exp(np.float64(logits))
    probability /= probability.sum(-1, keepdims=True)
    kept = np.where(np.isinf(want), 0, probability).sum(-1)
    assert np.all(different.sum(-1) <= 1)
    assert np.all(kept[different.any(-1)] < p + probability[different].max(initial=0) + 1e-5)
    np.testing.assert_array_equal(got[~different], want[~different])


@pytest.mark.parametrize("penalty", [0.5, 1.0, 1.3])
def test_the_repetition_penalty_is_that_of_transformers(penalty):
    logits, tokens = logits_of(2), np.array([[3, 3, 900, 7], [1, 2, 3, 4]])
    process = RepetitionPenaltyLogitsProcessor(penalty)
    got = penalised(
        jnp.asarray(logits),
        jnp.asarray(tokens, jnp.int32),
        jnp.asarray([4, 2], jnp.int32),
        jnp.full(2, penalty, jnp.float32),
    )
    for row, length in enumerate((4, 2)):
        held = torch.from_numpy(tokens[row : row + 1, :length])
        want = process(held, torch.from_numpy(logits[row : row + 1]).clone()).numpy()
        np.testing.assert_allclose(got[row], want[0], rtol=1e-6)


@pytest.mark.slow
def test_tokens_come_as_often_as_their_probability_says():
    count, k, p, temperature = 3_000, 8, 0.95, 1.7
    logits = np.tile(logits_of(1), (count, 1))
    tokens, _ = sampled(logits, temperature=temperature, top_k=k, top_p=p)
    x = torch.from_numpy(logits[:1])
    for process in (TemperatureLogitsWarper(temperature), TopKLogitsWarper(k), TopPLogitsWarper(p)):
        x = process(torch.zeros(1, 1), x)
    want = torch.softmax(x, -1).numpy()[0]
    found = np.bincount(tokens, minlength=V) / count
    assert np.all(found[want == 0] == 0)
    # Five standard deviations of a share of 3,000.
    assert np.all(np.abs(found - want) <= 5 * np.sqrt(want * (1 - want) / count))


def test_at_temperature_0_the_most_probable_known_token_is_taken():
    logits = logits_of(3)
    logits[0, V - 1] = 99  # the tokenizer does not know it
    tokens, log_probs = sampled(logits, pieces=V - 1, temperature=0.0, top_k=5)
    np.testing.assert_array_equal(tokens, logits[:, : V - 1].argmax(-1))
    wide = np.float64(logits)
    want = wide - np.log(np.exp(wide).sum(-1, keepdims=True))
    rows = np.arange(3)
    np.testing.assert_allclose(log_probs, want[rows, np.asarray(tokens)], rtol=1e-5)


def test_log_probabilities_are_of_the_distribution_before_any_change():
    logits = logits_of(2)
    tokens, log_probs = sampled(logits, temperature=0.3, top_k=3, repetition_penalty=2.0)
    want = jax.nn.log_softmax(logits)[np.arange(2), tokens]
    np.testing.assert_allclose(log_probs, want, rtol=1e-6)


def test_a_row_depends_on_its_own_seed_and_number_alone():
    logits, seeds = logits_of(6), np.array([4, 4, 1, 2, 3, 9])
    logits[1] = logits[0]
    tokens, _ = sampled(logits, seed=seeds)
    assert tokens[0] == tokens[1]
    alone, _ = sampled(logits[3:4], seed=seeds[3:4], top_k=0)
    assert alone[0] == tokens[3]
    many = {int(sampled(logits[:1], number=n, seed=4)[0][0]) for n in range(20)}
    assert len(many) > 5
