"""Streamed text is the text of all tokens, in whole characters, and ends before a stop string."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sentencepiece import SentencePieceTrainer

from fugaku_jax.data.tokenizer import Tokenizer
from fugaku_jax.inference.stream import Detokenizer, Until


@pytest.fixture(scope="module")
def prefixing(tmp_path_factory):
    """A tokenizer that puts a space of its own before every text, as LLaMA's does."""
    folder = tmp_path_factory.mktemp("tokenizer")
    (folder / "texts").write_text("the rain in Spain  stays\nmainly in the plain\n" * 9)
    SentencePieceTrainer.train(
        input=str(folder / "texts"),
        model_prefix=str(folder / "a"),
        vocab_size=290,
        byte_fallback=True,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    return Tokenizer.from_file(folder / "a.model")


def pieces(tokenizer, tokens):
    stream = Detokenizer(tokenizer)
    return [*(stream.add([token]) for token in tokens), stream.end()]


def of_bytes(tokenizer, data):
    known = {tokenizer.byte(n): n for n in range(tokenizer.vocab_size)}
    return [known[byte] for byte in data]


KANA = "鬱😀é".encode()
TOKENS = st.lists(
    st.one_of(
        st.integers(0, 289),
        st.sampled_from(
            [3 + byte for byte in KANA]
        ),  # the byte pieces stand after <unk>, <s>, </s>
    ),
    max_size=40,
)


@settings(max_examples=150, deadline=None)
@given(TOKENS)
@example([3 + byte for byte in KANA])
@example([2, 3 + 0xE9, 3 + 0xAC, 2, 3 + 0xB1, 3 + 0xE9])
@example([1, 2, 0, 0])
def test_pieces_joined_are_what_all_tokens_decode_to(tokenizer, prefixing, tokens):
    for each in (tokenizer, prefixing):
        known = [token % each.vocab_size for token in tokens]
        assert "".join(pieces(each, known)) == each.decode(known)


@settings(max_examples=150, deadline=None)
@given(TOKENS, TOKENS)
def test_text_that_goes_on_is_what_the_whole_has_more_than_its_beginning(
    tokenizer, prefixing, before, tokens
):
    for each in (tokenizer, prefixing):
        start = [*before, 1, *each.encode("雨 rain")]
        start = [token % each.vocab_size for token in start]
        known = [token % each.vocab_size for token in tokens]
        stream = Detokenizer(each, before=start)
        text = "".join(map(stream.add, ([token] for token in known))) + stream.end()
        assert each.decode(start) + text == each.decode(start + known)


def test_a_space_between_words_is_kept_where_the_tokenizer_has_one_of_its_own(prefixing):
    for prompt, word in (("the rain in", " the plain"), ("雨は the", " rain"), ("", "the plain")):
        stream = Detokenizer(prefixing, before=[1, *prefixing.encode(prompt)])
        tokens = prefixing.encode(word.lstrip())
        assert "".join(stream.add([token]) for token in tokens) == word


def test_a_character_of_several_bytes_comes_whole(tokenizer):
    got = pieces(tokenizer, of_bytes(tokenizer, "鬱😀é!".encode()))
    assert got == ["", "", "鬱", "", "", "", "😀", "", "é", "!", ""]


def test_bytes_that_are_no_character_are_replaced_and_lost_are_none(tokenizer):
    tokens = of_bytes(tokenizer, b"\xe9\xac!\xff\x80")
    assert "".join(pieces(tokenizer, tokens)) == tokenizer.decode(tokens)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.text("ab#", max_size=4), max_size=12),
    st.lists(st.text("ab#", min_size=1, max_size=4), max_size=3),
)
@example(["##", "# b"], ["###"])
@example(["aab"], ["ab", "aab"])
def test_text_ends_before_the_first_stop_string(texts, stops):
    until = Until(stops)
    shown = "".join(map(until.add, texts))
    text = "".join(texts)
    assert text.startswith(shown)
    shown += until.end()
    places = [text.find(stop) for stop in stops if stop in text]
    assert until.found == bool(places)
    # Of several that overlap, the one that was complete first ends the text.
    ends = {stop: text.find(stop) for stop in stops if stop in text}
    first = min((at + len(stop) for stop, at in ends.items()), default=None)
    if first is None:
        assert shown == text
    else:
        assert shown in {text[:at] for at in ends.values()}
        assert len(shown) < first


def test_nothing_is_shown_that_a_stop_string_could_take_back():
    until = Until(["\n\n###"])
    assert until.add("one\n") == "one"
    assert until.add("\n##") == ""
    assert until.add("x\n") == "\n\n##x"
    assert until.add("\n###two") == ""
    assert until.found
    assert until.add("three") == until.end() == ""
