"""Generated tokens are those of `transformers`, whoever generates and on whatever mesh."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from transformers_oracle import in_torch, randomised

from fugaku_jax.config import ModelConfig
from fugaku_jax.data.exact_scores import model_pb2
from fugaku_jax.data.tokenizer import Tokenizer
from fugaku_jax.errors import InputError
from fugaku_jax.inference.continuation import Continuation, Options
from fugaku_jax.inference.engine import Engine

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


def answers(engine, prompts, options):
    pairs = zip(map(engine.tokens, prompts), options, strict=True)
    return list(engine.answers(pairs))


@pytest.fixture
def endless(tokenizer, monkeypatch):
    """A tokenizer with which nothing ends a text but its length."""
    monkeypatch.setitem(vars(tokenizer), "ends", (10**6,))
    return tokenizer


@pytest.mark.slow
@pytest.mark.parametrize("config", MODELS.values(), ids=MODELS.keys())
def test_64_greedy_tokens_are_those_of_transformers_and_of_no_cache(config, endless):
    model = model_of(config)
    engine = Engine(model, endless, 2, jnp.float32, slots=len(PROMPTS))
    rows = answers(engine, PROMPTS, [GREEDY] * len(PROMPTS))
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


@pytest.fixture(scope="module")
def engine(tokenizer):
    return Engine(model_of(GPT2), tokenizer, 2, slots=5)


WARM = Options(max_tokens=12, temperature=1.5, top_k=200, top_p=0.99, seed=3)


@pytest.mark.slow
def test_a_row_is_the_same_alone_and_among_others(engine):
    [alone] = answers(engine, PROMPTS[:1], [WARM])
    options = [dataclasses.replace(WARM, seed=n, temperature=n / 5.0) for n in range(4)]
    others = ["むかし" * (3 * n) for n in range(4)]
    rows = answers(engine, [*others, PROMPTS[0]], [*options, WARM])
    assert rows[-1].tokens == alone.tokens
    # The logits are the same bit by bit; XLA may add their exponentials in another order.
    np.testing.assert_allclose(rows[-1].log_probs, alone.log_probs, atol=1e-5)
    assert rows[-1].text == alone.text
    assert len({tuple(row.tokens) for row in rows}) == 5


def test_text_comes_token_by_token_as_it_comes_at_once(engine):
    [at_once] = answers(engine, ["むかし"], [WARM])
    row, seen = engine.submit(engine.tokens("むかし"), WARM).continuation, []
    while not row.finish:
        (news,) = engine.step(at_once=1)
        assert len(news.tokens) == 1
        seen.append(news.text)
    assert ("".join(seen), row.tokens) == (at_once.text, at_once.tokens)
    assert row.text == at_once.text


class Scripted:
    """A model replaced by tokens that are known beforehand."""

    def __init__(self, tokenizer, text, **options):
        self.row = Continuation(tokenizer, [2], Options(**options))
        tokens = text if isinstance(text, list) else tokenizer.encode(text)
        self.row.add(tokens, [-1.0] * len(tokens))


def test_text_ends_before_a_stop_string_that_straddles_tokens(tokenizer):
    row = Scripted(tokenizer, "the rain in Spain stays", stop=("in S", "nothing")).row
    assert (row.text, row.finish) == ("the rain ", "stop")
    assert tokenizer.decode(row.tokens).startswith("the rain in S")
    assert len(row.tokens) < len(tokenizer.encode("the rain in Spain stays"))
    assert len(row.log_probs) == len(row.tokens)
    row = Scripted(tokenizer, "あ鬱い", stop=("鬱",)).row  # which is three byte pieces
    assert (row.text, row.finish) == ("あ", "stop")


def test_a_stop_string_may_begin_with_the_space_that_follows_the_prompt(tokenizer):
    model = model_pb2.ModelProto.FromString(tokenizer.model_bytes)
    model.normalizer_spec.add_dummy_prefix = True
    prefixing = Tokenizer(model.SerializeToString())
    row = Continuation(prefixing, [2, *prefixing.encode("the rain")], Options(stop=(" in Spain",)))
    tokens = prefixing.encode("stays in Spain")
    row.add(tokens, [-1.0] * len(tokens))
    assert (row.text, row.finish) == (" stays", "stop")


def test_text_ends_at_every_piece_that_ends_documents(tokenizer, monkeypatch):
    other = tokenizer.encode("x")[-1]
    monkeypatch.setitem(vars(tokenizer), "ends", (2, other))
    for end in (2, other):
        row = Scripted(tokenizer, [*tokenizer.encode("rain"), end, *tokenizer.encode("in")]).row
        assert (row.text, row.finish, row.tokens[-1]) == ("rain", "end", end)


def test_what_could_begin_a_stop_string_is_shown_when_the_text_ends(tokenizer):
    tokens = [*tokenizer.encode("rain"), tokenizer.end_of_document]
    assert Scripted(tokenizer, tokens, stop=("inn",)).row.text == "rain"
    row = Scripted(tokenizer, "rain", max_tokens=len(tokens) - 1, stop=("inn",)).row
    assert (row.text, row.finish) == ("rain", "length")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_tokens", 0),
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("repetition_penalty", 0.0),
        ("stop", ("",)),
        ("seed", -1),
    ],
)
def test_a_wrong_option_is_named_with_what_is_allowed(name, value):
    with pytest.raises(InputError, match=f"^{name} is .*, but it must be"):
        Options(**{name: value})


PROGRAM = Path(__file__).with_name("on_meshes.py")


@pytest.fixture(scope="module")
def on_meshes(run_emulated):
    """What `on_meshes.py` generates on each mesh of four emulated devices."""
    done = run_emulated(PROGRAM, 4)
    return json.loads(done)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_tokens_on_a_mesh_are_those_of_one_device(on_meshes, family):
    one, *meshes = on_meshes[family]
    assert len(one["tokens"]) == 4  # of five, one was cancelled
    for many in meshes:
        assert many["tokens"] == one["tokens"]
        for got, want in zip(many["log_probs"], one["log_probs"], strict=True):
            np.testing.assert_allclose(got, want, atol=1e-4)


@pytest.mark.slow
def test_int8_weights_on_a_mesh_say_nearly_what_they_say_on_one_device(on_meshes):
    one, many = on_meshes["int8"]
    # Where a column's sum is cut, each device has a scale of its own: another rounding of 8 bits.
    assert 0 < np.abs(np.array(many) - one).max() < 0.2
