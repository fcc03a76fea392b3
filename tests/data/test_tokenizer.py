"""Tokenizers keep every character, train the same model twice, and refuse what is no model."""

import random
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from small_corpora import make_texts

from fugaku_jax.data import tokenizer as tokenizers
from fugaku_jax.data.exact_scores import model_pb2
from fugaku_jax.data.tokenizer import Tokenizer
from fugaku_jax.errors import InputError

# SentencePiece ends a text at NUL in places, and writes a space as U+2581 itself.
TEXTS = st.text(st.characters(exclude_characters="\0\u2581", exclude_categories=["Cs"]))


@settings(max_examples=300, deadline=None)
@given(text=TEXTS)
@example(text="  two  spaces,\n\n\ttab\r\n　全角 12345 end ")
@example(text="</s><unk><0x0A>\ufeff\U0010ffff e\u0301")
@example(text=" " * 40 + "\n" * 5)
def test_decode_inverts_encode_for_every_text(tokenizer: Tokenizer, text: str):
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_digits_and_newlines_are_tokens_of_their_own(tokenizer: Tokenizer):
    assert len(tokenizer.encode("12345\n\n")) == 7


def test_training_twice_gives_the_same_model(tokenizer: Tokenizer):
    again = tokenizers.train(make_texts(200), 320)
    assert again.sha256 == tokenizer.sha256
    assert again.vocab_size == 320


def test_arrays_and_lists_are_the_same_tokens(tokenizer: Tokenizer):
    texts = ["the river 川", "", "12 cold\n"]
    ids = [tokenizer.encode(text) for text in texts]
    assert [tokenizer.encode_array(text).tolist() for text in texts] == ids


def test_the_model_survives_bytes_and_files(tokenizer: Tokenizer, tmp_path):
    path = tmp_path / "a.model"
    path.write_bytes(tokenizer.model_bytes)
    for loaded in (Tokenizer.from_file(path), Tokenizer(tokenizer.model_bytes)):
        assert loaded.sha256 == tokenizer.sha256
        assert loaded.end_of_document == 2


def test_ids_out_of_range_are_refused(tokenizer: Tokenizer):
    with pytest.raises(InputError, match="from 0 to 319, got 320"):
        tokenizer.decode([5, 320])


@pytest.mark.parametrize("content", [b"", b"no model at all", b"\x0a\x00\xff" * 50])
def test_a_file_that_is_no_model_is_refused(tmp_path, content):
    path = tmp_path / "broken.model"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"broken\.model"):
        Tokenizer.from_file(path)


def test_a_damaged_model_loads_or_is_a_sentence_that_names_the_file(tokenizer, tmp_path):
    """A byte of a piece that is no UTF-8 any more, a score that is no number, and the like."""
    draw, outcomes = random.Random(0), set()
    path = tmp_path / "damaged.model"
    for _ in range(300):
        damaged = bytearray(tokenizer.model_bytes)
        for _ in range(draw.choice((1, 1, 4))):
            damaged[draw.randrange(len(damaged))] = draw.choice((0x80, 0xFF, draw.randrange(256)))
        path.write_bytes(damaged)
        try:
            loaded = Tokenizer.from_file(path)
            loaded.decode(loaded.encode("the river 川 12\n"))
            outcomes.add(len(loaded.ends) > 0)
        except InputError as error:
            outcomes.add("damaged.model" in str(error))
    assert outcomes == {True}


@pytest.mark.parametrize(("field", "value"), [("score", float("nan")), ("piece", b"\xff\xfe")])
def test_a_damaged_piece_is_refused(tokenizer, field, value):
    model = model_pb2.ModelProto.FromString(tokenizer.model_bytes)
    if field == "score":
        model.pieces[-1].score = value
        damaged = model.SerializeToString()
    else:
        piece = model.pieces[-1].piece.encode()
        damaged = tokenizer.model_bytes.replace(piece, value[: len(piece)])
    with pytest.raises(InputError, match="no SentencePiece model"):
        Tokenizer(damaged)


def test_a_model_without_a_piece_for_the_unknown_is_refused(tokenizer):
    model = model_pb2.ModelProto.FromString(tokenizer.model_bytes)
    del model.pieces[0]  # SentencePiece would give what it does not know the id -1
    with pytest.raises(InputError, match="has no piece for what it does not know"):
        Tokenizer(model.SerializeToString())


def test_a_model_without_an_end_piece_is_refused():
    import io

    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a b c d e f g"] * 20),
        model_writer=model,
        vocab_size=12,
        eos_id=-1,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    with pytest.raises(InputError, match="no end-of-sentence piece"):
        Tokenizer(model.getvalue())


@pytest.mark.parametrize(
    ("texts", "size", "reason"),
    [
        (["a b c"], 9000, r"train:9000: .* at most \d+ pieces"),
        (["a b c"], 10, r"need \d+ pieces"),
        ([], 300, "no text to train on"),
    ],
)
def test_a_size_that_cannot_be_reached_is_told_in_a_sentence(texts, size, reason):
    with pytest.raises(InputError, match=reason):
        tokenizers.train(texts, size)


LONG_LINES = {
    "Japanese": "川の灯台は静かな町を照らしました。雪の山へ行く人も、むかしの歌をうたいます",
    "Japanese without a sign": "川の灯台は静かな町を照らしました雪の山へ行く人も歌をうたいます",
    "English": "the quiet river runs to the cold lighthouse, and the snow falls on it. ",
    "a character of four bytes": "\U00020bb7野家で食べる",
}


@pytest.mark.parametrize("text", LONG_LINES.values(), ids=LONG_LINES)
def test_a_long_line_is_cut_where_people_would_cut_it_and_keeps_every_character(text: str):
    line = text * (150_000 // len(text.encode()))
    parts = list(tokenizers._lines([line, "short"]))
    assert parts.pop() == "short"
    assert "".join(parts) == line
    assert max(len(part.encode()) for part in parts) <= tokenizers._LONGEST_LINE
    assert len(parts) < 20
    if set(text) & set("。、,. "):
        assert all(part[-1] in "。、,." or after[0] == " " for part, after in pairwise(parts))


def test_a_tokenizer_learns_from_a_line_of_any_length():
    words = ["川の音", "灯台", "静かな町", "行きました", "雪が", "むかし", "山へ", "明かり"]
    line = "".join(np.random.default_rng(0).choice(words, 12_000))
    assert len(line.encode()) > tokenizers._LONGEST_LINE
    trained = tokenizers.train([line], 330)
    assert len(line.encode()) / len(trained.encode(line)) > 4


def test_what_the_trainer_cannot_take_is_left_out_and_nothing_around_it():
    assert list(tokenizers._lines(["a\0b\u2581c\n\nd"])) == ["a", "b", "c", "d"]


def test_an_error_of_the_texts_is_not_hidden_by_the_trainer():
    def texts():
        yield from make_texts(200)
        raise InputError("texts.jsonl:201: not valid JSON.")

    with pytest.raises(InputError, match=r"texts\.jsonl:201: not"):
        tokenizers.train(texts(), 320)
