"""Generated tokens are those of `transformers`, and of running the whole text again for each."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from transformers_oracle import in_torch, randomised

from fugaku_jax.config import ModelConfig
from fugaku_jax.inference.continuation import Options
from fugaku_jax.inference.generate import Generator

GPT2 = ModelConfig(vocab_size=303, n_layers=2, d_model=128, n_heads=2, sequence_length=96)
LLAMA = dataclasses.replace(GPT2, family="llama", n_heads=4, n_kv_heads=2, d_model=256, tied=False)
MODELS = {
    "gpt2, head dim 64": GPT2,
    "gpt2, head dim 144, untied": dataclasses.replace(GPT2, d_model=288, tied=False),
    "gpt2, head dim 80, odd": dataclasses.replace(GPT2, d_model=80, n_heads=1, vocab_size=401),
    "llama, head dim 64, 2 of 4": LLAMA,
    "llama, head dim 80, 1 of 3, tied": dataclasses.replace(
        LLAMA, d_model=240, n_heads=3, n_kv_heads=1, tied=True, rope_theta=5e5
    ),
}
GREEDY = Options(max_tokens=64, temperature=0.0)
PROMPTS = ["the rain in", "むかし", "", "x = 1\nthe plain stays mainly in the"]


def model_of(config: ModelConfig):
    return nnx.merge(*randomised(config))


def run(generator, rows, **options):
    for _ in generator.run(rows, **options):
        pass
    return rows


@pytest.fixture
def endless(tokenizer, monkeypatch):
    """A tokenizer with which nothing ends a text but its length."""
    monkeypatch.setitem(vars(tokenizer), "ends", (10**6,))
    return tokenizer


@pytest.mark.parametrize("config", MODELS.values(), ids=MODELS.keys())
def test_64_greedy_tokens_are_those_of_transformers_and_of_no_cache(config, endless):
    model = model_of(config)
    generator = Generator(model, endless, jnp.float32)
    rows = run(generator, [generator.begin(prompt, GREEDY) for prompt in PROMPTS])
    theirs = in_torch(randomised(config)[1], config)
    graph, weights = nnx.split(model)

    @jax.jit
    def logits(weights, tokens):
        ours = nnx.merge(graph, weights)
        return ours.logits(ours(tokens))[0, :, : config.vocab_size]

    for row in rows:
        assert len(row.tokens) == 64
        assert row.finish == "length"
        with torch.no_grad():
            want = theirs.generate(
                torch.tensor([row.prompt]),
                max_new_tokens=64,
                do_sample=False,
                eos_token_id=-1,
                pad_token_id=0,
                suppress_tokens=list(range(303, config.vocab_size)) or None,
            )
        assert row.tokens == want[0, len(row.prompt) :].tolist()
        padded = np.zeros((1, config.sequence_length), np.int32)
        whole = row.prompt + row.tokens
        padded[0, : len(whole)] = whole
        again = np.asarray(logits(weights, padded))[len(row.prompt) - 1 : len(whole) - 1]
        assert row.tokens == again[:, :303].argmax(-1).tolist()
        wide = np.float64(again)
        log_probs = wide - np.log(np.exp(wide - wide.max(-1, keepdims=True)).sum(-1, keepdims=True))
        log_probs -= wide.max(-1, keepdims=True)
        want = log_probs[np.arange(64), row.tokens]
        np.testing.assert_allclose(row.log_probs, want, atol=1e-4)
