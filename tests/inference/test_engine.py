"""Rows that come and go side by side are those that run alone, token for token."""

import random

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from transformers_oracle import randomised
from whole_text import WholeText

from fugaku_jax.config import ModelConfig
from fugaku_jax.errors import InputError
from fugaku_jax.inference.continuation import Options
from fugaku_jax.inference.engine import ALTERNATIVES, AT_ONCE, MOST_AT_ONCE, Engine
from fugaku_jax.inference.ragged import extend, repeat

CONFIG = ModelConfig(
    family="llama",
    vocab_size=303,
    n_layers=2,
    d_model=64,
    n_heads=4,
    n_kv_heads=2,
    sequence_length=80,
    tied=False,
)
SLOTS = 4
PREFIX = "the rain in Spain stays mainly in the plain"


@pytest.fixture(scope="module")
def model():
    return nnx.merge(*randomised(CONFIG))


@pytest.fixture(scope="module")
def engine(model, tokenizer):
    return Engine(model, tokenizer, 2, jnp.float32, slots=SLOTS, queue=40)


@pytest.fixture(scope="module")
def whole_text(model, tokenizer):
    return WholeText(model, tokenizer)


def submit(engine, prompt, options, **more):
    return engine.submit(engine.tokens(prompt), options, **more)


def requests(draw, count, prefix):
    texts = ["むかし", "", "x = 1", "the plain", "Spain" * 7]
    for seed in range(count):
        warm = {"temperature": 0.7, "repetition_penalty": 1.3, "seed": seed} if seed % 3 else {}
        prompt = (prefix if seed % 2 else "") + draw.choice(texts)
        yield prompt, Options(draw.randrange(1, 24), **({"temperature": 0.0} | warm))


@pytest.mark.parametrize("prefix", ["", PREFIX], ids=["nothing shared", "shared prefixes"])
def test_what_comes_and_goes_at_random_is_what_runs_alone_and_whole(engine, whole_text, prefix):
    draw = random.Random(len(prefix))
    asked = list(requests(draw, 24, prefix))
    want = [whole_text(engine.tokens(prompt), options) for prompt, options in asked]
    coming, rows, gone, texts = list(enumerate(asked)), {}, set(), {}
    while coming or engine.busy or engine.queued:
        while coming and draw.random() < 0.5:
            number, (prompt, options) = coming.pop()
            rows[number] = submit(engine, prompt, options)
        if rows and draw.random() < 0.1:
            gone.add(draw.choice(list(rows)))
            for number in gone:
                engine.cancel(rows[number])
        for news in engine.step(draw.choice([1, AT_ONCE, MOST_AT_ONCE])):
            texts[news.ticket] = texts.get(news.ticket, "") + news.text
            assert news.ticket.continuation.text == texts[news.ticket]
    assert engine.pool.free == engine.pool.blocks
    whole = 0
    for number, row in rows.items():
        found, alone = row.continuation, want[number]
        if found.finish:
            assert (found.tokens, found.text, found.finish) == (
                alone.tokens,
                alone.text,
                alone.finish,
            )
            np.testing.assert_allclose(found.log_probs, alone.log_probs, atol=1e-4)
            whole += 1
        else:
            assert number in gone
            assert found.tokens == alone.tokens[: len(found.tokens)]
    assert whole > 12


def test_a_row_that_ends_amid_a_step_is_whole_and_so_are_those_beside_it(
    model, engine, whole_text, tokenizer, monkeypatch
):
    asked = [(engine.tokens("x" * n), Options(23, temperature=0.0)) for n in range(SLOTS)]
    end = next(engine.answers(asked)).tokens[9]
    monkeypatch.setitem(vars(tokenizer), "ends", (end,) * len(tokenizer.ends))
    rows = Engine(model, tokenizer, 2, jnp.float32, slots=SLOTS, queue=40).answers(asked)
    finishes = set()
    for row, each in zip(rows, asked, strict=True):
        want = whole_text(*each)
        assert (row.tokens, row.finish) == (want.tokens, want.finish)
        finishes.add(row.finish)
    assert finishes == {"end", "length"}


@pytest.mark.parametrize("weights", [None, "int8"])
def test_in_bf16_48_rows_side_by_side_are_those_that_run_alone(model, tokenizer, weights):
    engine = Engine(model, tokenizer, 2, slots=13, weights=weights)
    draw, asked = random.Random(0), []
    for number in range(48):
        prompt = PREFIX[: draw.randrange(44)] if number % 3 else "むかし" * (number % 5)
        asked.append((engine.tokens(prompt), Options(draw.randrange(5, 30), temperature=0.0)))
    alone = [next(engine.answers([each])) for each in asked]
    among = list(Engine(model, tokenizer, 2, slots=13, weights=weights).answers(asked))
    for found, want in zip(among, alone, strict=True):
        assert found.tokens == want.tokens
        # XLA may add exponentials in another order.
        np.testing.assert_allclose(found.log_probs, want.log_probs, atol=1e-5)


def test_what_a_prompt_has_in_common_within_a_block_is_copied_and_is_the_same(
    model, tokenizer, monkeypatch
):
    options, seen, run = Options(8, temperature=0.0), [], Engine._run
    one, other = [7, *range(40, 65)], [7, *range(40, 63), 90]
    [want] = Engine(model, tokenizer, 2, slots=2).answers([(other, options)])
    engine = Engine(model, tokenizer, 2, slots=2)

    def watched(pieces, at_once):
        seen.extend(piece for piece in pieces if not piece.row.continuation.tokens)
        return run(engine, pieces, at_once)

    monkeypatch.setattr(engine, "_run", watched)
    _, found = [next(engine.answers([(prompt, options)])) for prompt in (one, other)]
    assert [piece.places for piece in seen] == [range(26), range(24, 25)]
    assert [piece.copied is None for piece in seen] == [True, False]
    assert (found.tokens, found.log_probs) == (want.tokens, want.log_probs)


def test_int8_weights_say_nearly_what_fp32_says(engine, model, tokenizer):
    text = engine.tokens(PREFIX)
    small = Engine(model, tokenizer, 2, jnp.float32, slots=1, weights="int8")
    want, got = (np.array(each.score(text)[0]) for each in (engine, small))
    # Weights of 8 bits and rows of 8 bits: an error of about 1% of a product, here of 2 layers.
    assert 0 < np.abs(got - want).max() < 0.2
    assert np.abs(got - want).mean() < 0.05


def test_who_wants_no_more_answers_leaves_the_engine_free(engine):
    asked = [(engine.tokens(f"{n} x"), Options(8, temperature=0.0)) for n in range(9)]
    answers = engine.answers(asked)
    next(answers)
    assert engine.busy + engine.queued
    answers.close()
    assert (engine.busy, engine.queued) == (0, 0)
    assert engine.pool.free == engine.pool.blocks


def test_nothing_is_compiled_while_somebody_waits(model, tokenizer):
    engine = Engine(model, tokenizer, 2, slots=3)
    engine.prepare()
    compiled = extend._cache_size(), repeat._cache_size()
    rows = [submit(engine, "x" * n, Options(1 + n)) for n in (1, 5, 18, 60, 70)]
    engine.step()
    rows += [submit(engine, "y" * n, Options(1 + n)) for n in (4, 31)]
    while engine.busy:
        engine.step()
    assert all(row.continuation.finish for row in rows)
    assert (extend._cache_size(), repeat._cache_size()) == compiled


def test_the_score_of_a_text_is_what_its_tokens_had_when_they_were_chosen(engine):
    row = submit(engine, PREFIX, Options(20, temperature=0.0), alternatives=3)
    told = []
    while not row.continuation.finish:
        for news in engine.step():
            assert len(news.alternatives) == len(news.tokens)
            told += news.alternatives
    found, prompt = row.continuation, row.continuation.prompt
    log_probs, alternatives = engine.score(prompt + found.tokens, alternatives=3)
    assert len(log_probs) == len(alternatives) == len(prompt) + len(found.tokens) - 1
    here = slice(len(prompt) - 1, None)
    np.testing.assert_allclose(log_probs[here], found.log_probs, atol=1e-5)
    for token, log_prob, one, other in zip(
        found.tokens, found.log_probs, told, alternatives[here], strict=True
    ):
        assert list(one) == list(other)
        np.testing.assert_allclose(list(one.values()), list(other.values()), atol=1e-5)
        assert next(iter(one.items())) == (token, pytest.approx(log_prob, abs=1e-6))
        assert len(one) == 3
        assert sorted(one.values(), reverse=True) == list(one.values())
    assert engine.score(prompt[:1]) == ([], [])
    assert engine.pool.free == engine.pool.blocks


def test_a_row_ends_where_the_models_positions_end(engine, tokenizer, monkeypatch):
    monkeypatch.setitem(vars(tokenizer), "ends", (10**6,))
    [row] = engine.answers([(engine.tokens("x" * 60), Options(500, temperature=0.0))])
    assert row.finish == "length"
    assert len(row.prompt) + len(row.tokens) == CONFIG.sequence_length


@pytest.mark.parametrize(
    ("tokens", "more", "error"),
    [
        ([], {}, "needs a token"),
        ([303], {}, "none but those of the tokenizer"),
        ([5] * 80, {}, "has 80 tokens, but the model has 80 positions"),
        ([5], {"alternatives": ALTERNATIVES + 1}, "alternatives is 21"),
    ],
)
def test_a_wrong_request_is_a_sentence(engine, tokens, more, error):
    with pytest.raises(InputError, match=error):
        engine.submit(tokens, Options(), **more)
    with pytest.raises(InputError, match=error):
        engine.score(tokens + [5] * (len(tokens) == 80), **more)
    assert engine.queued == 0


@pytest.mark.parametrize("name", ["slots", "queue", "positions"])
def test_an_engine_of_nothing_is_refused(model, tokenizer, name):
    with pytest.raises(InputError, match=f"{name} is 0, but it must be at least 1"):
        Engine(model, tokenizer, 2, **{name: 0})
