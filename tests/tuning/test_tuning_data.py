"""A store of dialogues: what a step learns from it, and what is said of its rows."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from talks import dialogue

from fugaku_jax.config import Config, DataConfig, ModelConfig, OptimizerConfig, TrainingConfig
from fugaku_jax.data.loader import Loader
from fugaku_jax.data.marked_batch import marked_batch
from fugaku_jax.data.order import SampleOrder
from fugaku_jax.data.store import Store
from fugaku_jax.data.verify import verify_store
from fugaku_jax.errors import InputError
from fugaku_jax.evaluation.perplexity import Perplexity
from fugaku_jax.models.layout import make_layout, whole
from fugaku_jax.run.identity import check_marks
from fugaku_jax.training.state import init_state
from fugaku_jax.training.whole_model import whole_model
from fugaku_jax.tuning.build import build_dialogues
from fugaku_jax.tuning.chat_template import ChatTemplate
from fugaku_jax.tuning.encode import encode_dialogue

T = 160


@pytest.fixture(scope="module")
def built(tmp_path_factory, tokenizer, dialogues_file):
    out = str(tmp_path_factory.mktemp("store") / "out")
    report = build_dialogues(out, [dialogues_file], tokenizer, ChatTemplate(), T, 0.2)
    return Store.open(out), report


@pytest.fixture(scope="module")
def config(built):
    store, _ = built
    return Config(
        model=ModelConfig(
            vocab_size=store.vocab_size, n_layers=2, d_model=16, n_heads=2, sequence_length=T
        ),
        optimizer=OptimizerConfig(learning_rate=1e-2),
        training=TrainingConfig(steps=8, batch_size=4, micro_batches=2),
        data=DataConfig(store=store.url, learn="answers", reset_at_document=True),
    )


@pytest.fixture(scope="module")
def encoded(tokenizer):
    """Every dialogue by its id, as one that is alone is encoded."""
    end = tokenizer.end_of_document
    talks = (dialogue(number, 1 + number % 3) for number in range(120))
    return {each.id: encode_dialogue(each, ChatTemplate(), tokenizer, end) for each in talks}


def test_every_dialogue_lies_whole_in_a_row(built, encoded):
    store, report = built
    fitting = {name for name, each in encoded.items() if len(each.tokens) <= T}
    assert 0 < report.too_long == len(encoded) - len(fitting)
    assert report.dialogues["validation"] > 5
    found = set()
    for split in ("train", "validation"):
        tokens = getattr(store.sets[0], split).tokens
        assert tokens == report.rows[split] * T + 1
        for row in store.documents(0, split).tables():
            for each in row.to_pylist():
                own = encoded[each["id"]].tokens
                first = each["start"]
                assert first // T == (first + len(own) - 1) // T
                read = store.read(0, split, np.array([first]), len(own))[0]
                assert np.array_equal(read, own)
                found.add(each["id"])
    assert found == fitting
    assert list(verify_store(store.url)) == []


def test_a_row_is_learned_as_its_dialogues_alone_are(built, config, encoded):
    """Tokens, weights, segments of every row, worked out from the dialogues one by one."""
    store, _ = built
    rows = table = store.documents(0, "train").spanning(0, store.sets[0].train.tokens).to_pylist()
    layout = make_layout(config)
    order = SampleOrder.of_store(store, T, 4, seed=3)
    steps = -(-int(order.samples[0]) // 4)
    with layout.active(), Loader(store, order, layout.batch, 0, stop_step=steps) as loader:
        batches = [(step, jax.device_get(batch)) for step, batch in loader]
    seen = 0
    for step, batch in batches:
        _, starts, _ = order.locate(step)
        for row, start in enumerate(starts.tolist()):
            place = divmod(row, 2)
            tokens, weights = batch.tokens[place], batch.weights[place]
            segments = batch.segments[place]
            wanted = np.zeros(T + 1, np.float32)
            inside = [each for each in rows if start <= each["start"] < start + T]
            for number, each in enumerate(inside):
                own = encoded[each["id"]]
                begin, end = each["start"] - start, each["start"] - start + len(own.tokens)
                wanted[begin:end] = own.learned
                assert np.array_equal(tokens[begin:end], own.tokens)
                assert set(segments[begin : min(end, T)]) == {number}
            assert np.array_equal(weights, wanted[1:])
            seen += len(inside)
    assert seen >= len(table)


def test_prompts_count_as_much_as_they_are_given_and_padding_nothing(built, encoded):
    """Every token of a row's dialogues has a weight but for their first; nothing else has."""
    store, _ = built
    rows = store.sets[0].train.tokens // T
    marked = store.read_marked(0, "train", T * np.arange(rows), T + 1)
    weights, plain = marked_batch(marked, 0.25).weights, marked_batch(marked).weights
    assert np.array_equal(weights == 1, plain == 1)
    assert set(np.unique(weights)) == {0, 0.25, 1}
    table = store.documents(0, "train").spanning(0, rows * T).to_pylist()
    tokens = sum(len(encoded[each["id"]].tokens) for each in table)
    assert np.count_nonzero(weights) == tokens - len(table)
    for each in table:
        row, place = divmod(each["start"], T)
        own = encoded[each["id"]].learned
        wanted = np.where(own[1:], 1, 0.25)
        assert np.array_equal(weights[row, place : place + len(wanted)], wanted)


def test_a_run_learns_prompts_if_they_count(built, config):
    """The loader of such a run gives the weights."""
    store, _ = built
    layout = make_layout(config)
    order = SampleOrder.of_store(store, T, 4, seed=3)
    given = {"stop_step": 1, "prompt_weight": 0.25}
    with layout.active(), Loader(store, order, layout.batch, **given) as loader:
        ((_, batch),) = loader
    starts = order.locate(0)[1]
    wanted = marked_batch(store.read_marked(0, "train", starts, T + 1), 0.25).weights
    assert np.array_equal(np.asarray(batch.weights).reshape(wanted.shape), wanted)


def test_the_loss_of_a_packed_row_is_that_of_its_dialogues_alone(built, config, encoded):
    store, report = built
    with make_layout(config).active():
        layout = make_layout(config)
        state = init_state(layout)
        model = whole_model(layout, state.parameters)
        score = Perplexity(store, config, batch_size=2)(model).total
        nats = tokens = 0
        for table in store.documents(0, "validation").tables():
            for each in table.to_pylist():
                own = encoded[each["id"]]
                logits = model.logits(model(jnp.asarray(own.tokens[None, :-1])))[0].astype(
                    jnp.float32
                )
                log_p = np.asarray(jax.nn.log_softmax(logits), np.float64)
                log_p = log_p[np.arange(len(own.tokens) - 1), own.tokens[1:]]
                nats -= float(np.sum(log_p * own.learned[1:]))
                tokens += int(own.learned[1:].sum())
    assert score.tokens == tokens == report.learned["validation"]
    assert score.nats == pytest.approx(nats, rel=1e-5)
    assert whole(layout).config.data.learn == "answers"


def test_a_damaged_dialogue_is_named(tmp_path, dialogues_file, tokenizer):
    out = tmp_path / "damaged"
    build_dialogues(str(out), [dialogues_file], tokenizer, ChatTemplate(), T, 0)
    (shard,) = out.glob("*/0/train/c/0")
    data = bytearray(shard.read_bytes())
    row = Store.open(str(out)).documents(0, "train").spanning(1000, 1000).to_pylist()[0]
    data[4 * (row["start"] + 2)] ^= 1
    shard.write_bytes(data)
    (damage,) = verify_store(str(out))
    assert damage.documents == (row["id"],)


def test_what_does_not_fit_is_a_sentence(built, config, tmp_path, dialogues_file, tokenizer):
    store, _ = built
    with pytest.raises(InputError, match="packed into rows of 160 tokens"):
        check_marks(replace(config, model=replace(config.model, sequence_length=80)), store)
    plain = replace(config.data, learn="all")
    with pytest.raises(InputError, match="holds dialogues, whose answers alone"):
        check_marks(replace(config, data=plain), store)
    with pytest.raises(InputError, match="reset_at_document is False"):
        replace(config.data, reset_at_document=False)
    out = str(tmp_path / "out")
    with pytest.raises(InputError, match="120 have more than 8 tokens"):
        build_dialogues(out, [dialogues_file], tokenizer, ChatTemplate(), 8)
    bad = tmp_path / "bad.jsonl"
    bad.write_text(json.dumps({"prompt": "x", "completion": ""}))
    with pytest.raises(InputError, match="empty answer; `--on-bad-line skip`"):
        build_dialogues(out, [bad, dialogues_file], tokenizer, ChatTemplate(), T)
    report = build_dialogues(
        out, [bad, dialogues_file], tokenizer, ChatTemplate(), T, on_bad_line="skip"
    )
    assert report.bad_line_count == 1
