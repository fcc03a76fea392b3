"""Perplexity, held to a loop over tokens in float64 on a store made here."""

import dataclasses
import hashlib
import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fugaku_jax.config import Config, DataConfig, ModelConfig, OptimizerConfig, TrainingConfig
from fugaku_jax.data.store import Store
from fugaku_jax.data.tokenizer import train
from fugaku_jax.data.writer import EncodedDocument, StoreWriter
from fugaku_jax.errors import InputError
from fugaku_jax.evaluation.held_out import select_documents
from fugaku_jax.evaluation.perplexity import DomainScore, Perplexity, windows
from fugaku_jax.ledger.documents import DocumentRow
from fugaku_jax.models.gpt import GPT

VOCAB = 290
LENGTHS = {"tales": [7, 12, 1, 30], "news": [9, 5], "sums": [6]}
DOMAINS = {"tales": "ja", "news": "ja", "sums": "math"}
CONFIG = Config(
    model=ModelConfig(vocab_size=VOCAB, n_layers=1, d_model=16, n_heads=2, sequence_length=8),
    optimizer=OptimizerConfig(learning_rate=1e-3),
    training=TrainingConfig(steps=1, batch_size=2),
)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Three sets of random tokens; a document of n tokens has 3 n bytes, the last token its end."""
    url = str(tmp_path_factory.mktemp("store"))
    tokenizer = train(["the rain in Spain stays mainly in the plain"] * 9, VOCAB)
    random = np.random.default_rng(0)
    with StoreWriter(url, tokenizer) as writer:
        for name, lengths in LENGTHS.items():
            each = writer.add_set(name)
            for split in ("train", "validation"):
                for i, length in enumerate(lengths):
                    tokens = random.integers(10, VOCAB, length).astype(np.uint16)
                    tokens[-1] = tokenizer.end_of_document
                    text = random.bytes(3 * length)
                    sha256 = hashlib.sha256(text).hexdigest()
                    row = DocumentRow(f"{name}:{i}", name, None, sha256, length, len(text))
                    each.append(EncodedDocument(row, tokens, text), split)
            each.finish(DOMAINS[name], 1.0)
        writer.publish()
    return Store.open(url)


@pytest.fixture(scope="module")
def model():
    return jax.jit(
        lambda: GPT(dataclasses.replace(CONFIG.model, init_std=0.3), jax.random.key(0))
    )()


def stream_of(store, set_index):
    tokens = store.sets[set_index].validation.tokens
    return store.read(set_index, "validation", np.array([0]), tokens)[0]


def nats_token_by_token(model, stream, end_of_document, reset):
    """Predict one token at a time from the tokens that stand before it in its window."""
    logits_of = jax.jit(lambda tokens: model.logits(model(tokens)))
    length, total = model.config.sequence_length, 0.0
    padded = np.concatenate([[end_of_document], stream]).astype(np.int32)
    for target in range(1, len(padded)):
        start = (target - 1) // length * length
        context = padded[start:target]
        ends = np.flatnonzero(context[:-1] == end_of_document)
        if reset and len(ends):
            context = context[ends[-1] + 1 :]
        tokens = np.zeros((1, length), np.int32)
        tokens[0, : len(context)] = context
        logits = np.asarray(logits_of(jnp.asarray(tokens)), np.float64)[0, len(context) - 1]
        logits = logits[: model.config.vocab_size]
        total += np.log(np.exp(logits).sum()) - logits[padded[target]]
    return total


@pytest.mark.slow
@pytest.mark.parametrize("reset", [False, True], ids=["packed", "reset at documents"])
def test_scores_equal_predicting_one_token_at_a_time_in_float64(store, model, reset):
    config = dataclasses.replace(CONFIG, data=DataConfig(reset_at_document=reset))
    scores = Perplexity(store, config)(model)
    nats = [nats_token_by_token(model, stream_of(store, i), 2, reset) for i in range(3)]
    assert store.end_of_document == 2
    assert list(scores.domains) == ["ja", "math"]
    # fp32 logits against their float64 sum over some tens of tokens.
    np.testing.assert_allclose(scores.domains["ja"].nats, nats[0] + nats[1], rtol=1e-5)
    np.testing.assert_allclose(scores.domains["math"].nats, nats[2], rtol=1e-5)
    np.testing.assert_allclose(scores.total.nats, sum(nats), rtol=1e-5)


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("length", [4, 8, 50, 100])
def test_every_held_out_token_is_predicted_once_after_the_one_before_it(store, rows, length):
    for selection in select_documents(store, None):
        stream = stream_of(store, selection.set_index)
        batches = list(windows(store, selection, rows, length))
        assert {batch.tokens.shape for batch in batches} == {(rows, length + 1)}
        inputs = np.concatenate([batch.tokens[:, :-1].ravel() for batch in batches])
        targets = np.concatenate([batch.tokens[:, 1:].ravel() for batch in batches])
        weights = np.concatenate([batch.weights.ravel() for batch in batches])
        assert set(np.unique(weights)) <= {0.0, 1.0}
        np.testing.assert_array_equal(targets[weights == 1], stream)
        before = np.concatenate([[store.end_of_document], stream[:-1]])
        np.testing.assert_array_equal(inputs[weights == 1], before)


def test_a_uniform_model_needs_log_v_nats_for_every_token(store, model):
    structure, weights = nnx.split(model)
    uniform = nnx.merge(structure, jax.tree.map(jnp.zeros_like, weights))
    scores = Perplexity(store, CONFIG)(uniform)
    for score in (*scores.domains.values(), scores.total):
        np.testing.assert_allclose(score.nats_per_token, math.log(VOCAB), rtol=1e-6)
        # Three bytes a token.
        np.testing.assert_allclose(score.bits_per_byte, math.log2(VOCAB) / 3, rtol=1e-6)
    assert scores.total.tokens == sum(map(sum, LENGTHS.values()))
    assert scores.total.bytes == 3 * scores.total.tokens


def test_bits_a_byte_by_hand():
    score = DomainScore(nats=40 * math.log(2), tokens=8, bytes=20, xz_bytes=10)
    assert score.nats_per_token == 5 * math.log(2)
    assert score.bits_per_byte == pytest.approx(2.0)
    assert score.xz_bits_per_byte == 4.0
    both = score + DomainScore(nats=0.0, tokens=2, bytes=20, xz_bytes=None)
    assert (both.tokens, both.bytes, both.xz_bytes, both.xz_bits_per_byte) == (10, 40, None, None)
    assert both.bits_per_byte == pytest.approx(1.0)


def test_sets_of_a_domain_add_up_with_their_xz_sizes(store, model):
    splits = [each.validation for each in store.sets]
    scores = Perplexity(store, CONFIG)(model)
    assert scores.domains["ja"].xz_bytes == splits[0].xz_bytes + splits[1].xz_bytes
    assert scores.domains["math"].xz_bytes == splits[2].xz_bytes
    assert scores.domains["ja"].bytes == splits[0].bytes + splits[1].bytes


@pytest.mark.parametrize("limit", [1, 6, 20, 40, 63, 64, 1000])
def test_a_limit_takes_whole_documents_and_their_exact_bytes(store, limit):
    selections = select_documents(store, limit)
    for selection in selections:
        lengths = LENGTHS[store.sets[selection.set_index].name]
        ends = np.cumsum(lengths)
        boundaries = {0, *ends.tolist()}
        for first, length in selection.spans:
            assert {first, first + length} <= boundaries
        assert selection.tokens == sum(length for _, length in selection.spans)
        assert selection.bytes == 3 * selection.tokens
        whole = selection.tokens == sum(lengths)
        assert (selection.xz_bytes is None) == (not whole)
        assert whole or selection.tokens <= limit or selection.tokens == min(lengths)
    if limit >= 64:
        assert all(s.xz_bytes is not None for s in selections)


def test_documents_that_do_not_fit_are_passed_over(store):
    # 20 tokens of ja, 50/64 of them for the tales: 15, so the first (7), and the third (1).
    tales, news, sums = select_documents(store, 20)
    assert (tales.spans, tales.tokens) == (((0, 7), (19, 1)), 8)
    assert (news.spans, news.tokens) == (((9, 5),), 5)
    assert (sums.spans, sums.tokens) == (((0, 6),), 6)


def test_the_batch_size_changes_no_score(store, model):
    one = Perplexity(store, CONFIG, batch_size=1)(model).total
    seven = Perplexity(store, CONFIG, batch_size=7)(model).total
    np.testing.assert_allclose(one.nats, seven.nats, rtol=1e-6)
    assert (one.tokens, one.bytes) == (seven.tokens, seven.bytes)


def test_a_second_call_compiles_nothing(store, model, monkeypatch):
    traces = []
    call = GPT.__call__
    monkeypatch.setattr(GPT, "__call__", lambda *a, **k: traces.append(1) or call(*a, **k))
    perplexity = Perplexity(store, CONFIG, batch_size=5)  # as no other test has it
    first = perplexity(model)
    structure, weights = nnx.split(model)
    moved = nnx.merge(structure, jax.tree.map(lambda x: x + 0.1, weights))
    assert perplexity(moved).total.nats != first.total.nats
    assert len(traces) == 1


def test_a_store_of_a_larger_vocabulary_is_wrong_input(store):
    model = dataclasses.replace(CONFIG.model, vocab_size=VOCAB - 1)
    with pytest.raises(InputError, match=r"model\.vocab_size is 289.*290 pieces"):
        Perplexity(store, dataclasses.replace(CONFIG, model=model))


def test_what_is_scored_on_many_devices_is_summed_one_axis_after_the_other(run_emulated):
    found = json.loads(run_emulated(Path(__file__).with_name("scoring_groups.py"), 16))
    mesh, groups = found["mesh"], found["collectives"]
    assert len([axis for axis in found["data"] if mesh[axis] > 1]) > 1
    for row in groups:
        assert len(row["axes"]) == 1, row
        assert row["members"] == mesh[row["axes"][0]], row
    # The sum over all replicas is there, or nothing would be said by this.
    summed = {row["axes"][0] for row in groups if row["kind"] == "all-reduce"}
    assert summed >= {axis for axis in found["data"] if mesh[axis] > 1}
