"""`tokenizer.json` cuts every text as our tokenizer does, wherever in a text a word stands."""

import json

import numpy as np
import pytest
import sentencepiece
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as TheirTokenizer

from fugaku_jax.data.exact_scores import GRID, model_pb2
from fugaku_jax.data.tokenizer import Tokenizer, train
from fugaku_jax.errors import InputError
from fugaku_jax.interop.tokenizer_from_json import JSON_TOKENIZER, tokenizer_from_json
from fugaku_jax.interop.tokenizer_json import to_tokenizer_json

WORDS = ("ハハ", "ハ", "the", "rain", "in", "雨は", "降る。", "12", "``", "`", "x = 1\n", "……", "…")
SPECIAL = "< / s > u n k x 0 A B C D E F"  # no character of special pieces is unknown
PARTS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    st.sampled_from([*WORDS, " ", " " * 17, " " * 40, "\n\n", "\t", "\0", "\u2581", "\u3000"]),
    st.sampled_from(["</s>", "<unk>", "<0x0A>", "👨‍👩‍👧", "e\u0301", "\r\n", "```", "ハハハ"]),
)
STRINGS = st.lists(PARTS, max_size=40).map("".join)


def with_dummy_prefix(tokenizer: Tokenizer) -> Tokenizer:
    """The same pieces in a model that puts a space before every text, as llm-jp's does."""
    model = model_pb2.ModelProto.FromString(tokenizer.model_bytes)
    model.normalizer_spec.add_dummy_prefix = True
    return Tokenizer(model.SerializeToString())


@pytest.fixture(scope="module")
def tokenizer():
    rng = np.random.default_rng(0)
    return train([*(" ".join(rng.choice(WORDS, 30)) for _ in range(200)), *[SPECIAL] * 99], 326)


@pytest.fixture(scope="module", params=["plain", "dummy prefix"])
def pair(request, tokenizer):
    ours = tokenizer if request.param == "plain" else with_dummy_prefix(tokenizer)
    return ours, TheirTokenizer.from_str(json.dumps(to_tokenizer_json(ours, None)))


@pytest.mark.slow
@settings(max_examples=400, deadline=None)
@given(text=STRINGS)
@example(text="ハハハ ``` " * 3000)  # beyond where SentencePiece starts its sum anew
@example(text="")
def test_every_text_is_cut_alike(pair, text):
    ours, theirs = pair
    assert theirs.encode(text).ids == ours.encode(text)


@settings(max_examples=100, deadline=None)
@given(text=STRINGS)
def test_what_it_was_made_of_comes_back(rebuilt, text):
    ours, again = rebuilt
    assert again.encode(text) == ours.encode(text)
    assert again.decode(again.encode(text)) == ours.decode(ours.encode(text))


@pytest.fixture(scope="module")
def rebuilt(pair, tmp_path_factory):
    """A tokenizer, and what is made of its `tokenizer.json` alone."""
    folder = tmp_path_factory.mktemp("json")
    (folder / JSON_TOKENIZER).write_text(json.dumps(to_tokenizer_json(pair[0], 2)))
    again = tokenizer_from_json(folder)
    assert again.cuts_sha256 == pair[0].cuts_sha256
    assert again.ends == pair[0].ends
    return pair[0], again


@pytest.mark.parametrize(
    "change",
    [
        {"model": {"type": "BPE", "vocab": {}, "merges": []}},
        {"model": {"type": "Unigram", "unk_id": 0, "vocab": [["a", -1.0]]}},
        {"model": {"type": "Unigram", "unk_id": 9, "vocab": [["a", -1.0]]}},
        {"model": {"type": "Unigram", "unk_id": 0, "vocab": [["a", "b"], 3]}},
        {"model": {"type": "Unigram", "unk_id": 0, "vocab": [["a", float("inf")]]}},
        {"model": []},
        {"normalizer": {"type": "NFKC"}},
        {"normalizer": None},
        {"pre_tokenizer": {"type": "Metaspace"}},
    ],
)
def test_a_tokenizer_that_cuts_otherwise_than_ours_could_is_none(pair, change, tmp_path):
    whole = to_tokenizer_json(pair[0], None)
    (tmp_path / JSON_TOKENIZER).write_text(json.dumps(whole | change))
    assert tokenizer_from_json(tmp_path) is None
    model = dict(
        whole["model"], vocab=[[piece, score - 1e-3] for piece, score in whole["model"]["vocab"]]
    )
    (tmp_path / JSON_TOKENIZER).write_text(json.dumps(whole | {"model": model}))
    assert tokenizer_from_json(tmp_path) is None  # its sums would be rounded
    (tmp_path / JSON_TOKENIZER).write_text("[" * 100_000)
    assert tokenizer_from_json(tmp_path) is None


@settings(max_examples=100, deadline=None)
@given(text=STRINGS, before=STRINGS)
def test_a_line_is_cut_as_if_nothing_stood_before_it(tokenizer, text, before):
    newline = tokenizer.encode("\n")
    alone = tokenizer.encode(text)
    assert tokenizer.encode(f"{before}\n{text}") == [*tokenizer.encode(before), *newline, *alone]


def test_sentencepiece_itself_cuts_equals_by_what_stands_before(tokenizer):
    """Why scores are rounded: without, the same word has several cuts in one text."""
    raw = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.model_bytes)
    text = "the rain ハハハ\n" * 300

    def cuts(encode) -> set[str]:
        ids = ",".join(map(str, encode(text)))
        return set(ids.split(f",{tokenizer.encode(chr(10))[0]},"))

    assert len(cuts(raw.encode)) > 1
    assert len({cut.rstrip(",") for cut in cuts(tokenizer.encode)}) <= 2  # the last has its newline


def test_scores_are_rounded_by_less_than_a_grid(tokenizer):
    raw, exact = (
        model_pb2.ModelProto.FromString(each).pieces
        for each in (tokenizer.model_bytes, tokenizer.exact_model_bytes)
    )
    normal = model_pb2.ModelProto.SentencePiece.NORMAL
    for before, after in zip(raw, exact, strict=True):
        assert before.piece == after.piece
        assert after.score % GRID == 0
        assert before.type != normal or abs(before.score - after.score) <= GRID / 2


def test_half_of_a_surrogate_pair_is_refused(tokenizer):
    with pytest.raises(InputError, match="not Unicode: surrogates not allowed"):
        tokenizer.encode("a\ud800b")
