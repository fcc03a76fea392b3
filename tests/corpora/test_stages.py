"""Each stage alone: what it finds, what it leaves, and that native code and Python agree."""

import dataclasses
import random

import pytest
from raw_corpus import ENGLISH_QUESTION, QUESTION, english, story

from fugaku_jax.corpora.contamination import EvaluationTexts
from fugaku_jax.corpora.languages import language_of
from fugaku_jax.corpora.normalise import normalise
from fugaku_jax.corpora.personal_data import mask
from fugaku_jax.corpora.quality_code import code_fault
from fugaku_jax.corpora.quality_en import english_fault
from fugaku_jax.corpora.quality_ja import japanese_fault
from fugaku_jax.corpora.recipe import (
    CodeQuality,
    CorpusInput,
    CorpusRecipe,
    EnglishQuality,
    JapaneseQuality,
    NearDuplicates,
)
from fugaku_jax.corpora.repetition import ngram_counts, plain_ngram_counts
from fugaku_jax.corpora.signatures import band_hashes
from fugaku_jax.corpora.text_statistics import plain_text_statistics, text_statistics
from fugaku_jax.errors import InputError

TELEPHONES = [
    "03-1234-5678",
    "０３－１２３４－５６７８",
    "090-1234-5678",
    "09012345678",
    "（03）1234-5678",
    "03(1234)5678",
    "0120-123-456",
    "0466-22-1234",
    "+81-3-1234-5678",
    "(415)555-2671",
    "415-555-2671",
    "０９０ー１２３４ー５６７８",
    "050-1234-5678",
    "TEL:03-1234-5678",
    "電話:03-1234-5678まで",
]
PERSONAL = {
    **dict.fromkeys(TELEPHONES, "<PHONE>"),
    "+81 90 1234 5678": "<PHONE>",
    "+1 (415) 555-2671": "<PHONE>",
    "03 1234 5678": "<PHONE>",
    "taro.yamada@example.co.jp": "<MAIL>",
    "taro＠example.jp": "<MAIL>",
    "4111 1111 1111 1111": "<CARD>",
    "3782-822463-10005": "<CARD>",
    "マイナンバーは1234 5678 9018です": "<MYNUMBER>",
}
LOOK_ALIKES = [
    "1.2.3",
    "10.0.19041.1234",
    "978-4-00-310101-8",
    "4-00-310101-8",
    "2024-01-15",
    "2024年1月15日",
    "¥1,234,567",
    "12,345,678円",
    "〒100-0001",
    "100-0001",
    "AB-1234-5678-90",
    "3.14159265358979",
    "1234567890123456",
    "192.168.100.200",
    "@decorator",
    "foo@bar",
    "2001-2002-2003",
    "1868-1912",
    "０１２３４５６７８９",
    "0.0901234567",
    "12:30:45.123456",
    "昭和20-03-1234",
    "https://example.com/09012345678",
    "0x09012345678",
    "1990-1991/1992-1993",
    "00000000000",
    "1²34567890",
]
LOOK_ALIKES += ["4111 1111 1111 1112", "1234 5678 9018", "マイナンバーは1234 5678 9012です"]


@pytest.mark.parametrize("text", PERSONAL)
def test_personal_data_are_masked(text):
    masked, kinds = mask(f"前の文。{text} 次の文。")
    assert PERSONAL[text] in masked
    assert len(kinds) == 1
    assert masked.startswith("前の文。")
    assert masked.endswith("次の文。")


@pytest.mark.parametrize("text", LOOK_ALIKES)
def test_what_only_looks_like_personal_data_is_left(text):
    assert mask(f"前の文。{text} 次の文。") == (f"前の文。{text} 次の文。", [])


def test_several_of_a_kind_are_counted():
    text = "a@example.com、b@example.com、03-1234-5678"
    assert mask(text) == ("<MAIL>、<MAIL>、<PHONE>", ["2 mail address", "1 telephone number"])


@pytest.mark.parametrize("seed", range(40))
def test_native_counts_are_those_of_python(seed):
    rng = random.Random(seed)
    signs = "あいアイ漢字々、。！？!?…・\n 　ab𠮷"[: rng.randrange(2, 24)]
    text = "".join(rng.choices(signs, k=rng.randrange(0, 3000)))
    assert ngram_counts(text) == plain_ngram_counts(text)
    assert text_statistics(text) == plain_text_statistics(text)


def test_ngrams_are_counted_as_told():
    # Of "ababab" the 2-grams are ab ba ab ba ab; of 5-grams there are ababa and babab.
    counts = ngram_counts("ababab")
    assert counts[0] == (3, 2, 2)
    assert counts[3] == (1, 2, 0)
    assert counts[8] == (0, 0, 0)


def test_japanese_is_held_to_each_rule():
    limits, good = JapaneseQuality(), story(1)
    assert japanese_fault(good, limits) is None
    assert japanese_fault(good[:300], limits) == "300 characters < 400"
    for text, fault in (
        (good + "abc def " * 600, "Japanese characters 0."),
        ("漢字" * 10 + "。" + good.translate(dict.fromkeys(range(12353, 12439), "漢")), "hiragana"),
        (good.translate({i: i + 96 for i in range(0x3041, 0x3080)}), "hiragana"),
        (good.replace("\n", "").replace("。", ""), "mean sentence"),
        (good + "長" + good.replace("\n", "").replace("。", "")[:300], "longest sentence 301"),
        (good.replace("。", "…\n"), "ellipsis endings 1.000 > 0.2"),
        (good + "今日もまた同じことを長々と繰り返し書いてみた。\n" * 20, "repeated lines"),
        (good + (good[:400] + "\n") * 2, "repeated "),
    ):
        assert (japanese_fault(text, limits) or "").startswith(fault), fault
    lifted = dataclasses.replace(limits, longest_sentence=None, mean_sentence=None)
    assert japanese_fault(good.replace("\n", "").replace("。", ""), lifted) is None
    phrase = "それはそうとしてまた明日ここで会いましょう、"
    woven = "".join(
        phrase + part for part in story(2, 60).splitlines() for part in [part[:40] + "。"]
    )
    tight = dataclasses.replace(limits, duplicate_ngrams=(0.0,) * 6)
    assert "repeated 5-grams" in (japanese_fault(woven, tight) or "")


def test_english_is_held_to_gophers_rules():
    limits, good = EnglishQuality(), english(1)
    assert english_fault(good, limits) is None
    for text, fault in (
        ("Too short.", "2 words"),
        (good + " supercalifragilistic" * 200, "mean word"),
        (good + " #" * 40, "symbols a word"),
        ("\n".join("- " + line for line in good.split("\n")), "lines with bullets"),
        (good + " 1234" * 90, "words with a letter"),
        ("river lamp house north winter " * 20, "stop words 0 < 2"),
        ("\n".join([good.split("\n")[0]] * 12), "repeated lines"),
    ):
        assert (english_fault(text, limits) or "").startswith(fault), fault


def test_code_is_held_to_its_rules():
    limits = CodeQuality()
    assert code_fault("x = 1\n" * 20, limits) is None
    assert "longest line" in (code_fault("x" * 1001, limits) or "")
    assert "mean line" in (code_fault("x" * 500, limits) or "")
    assert "letters and digits" in (code_fault("+-*/\n" * 20, limits) or "")


@pytest.mark.parametrize(
    ("text", "language"),
    [
        (story(1), "ja"),
        ("The house by the river was empty, and nobody had lived there for years. " * 3, "en"),
        ("我们今天在学校学习了很多新的知识，老师说明天还要继续努力。" * 5, "zh"),
        ("오늘은 학교에서 많은 것을 배웠고 내일도 열심히 공부할 것입니다. " * 5, "ko"),
        ("12345", "und"),
    ],
)
def test_languages_are_told_apart(text, language):
    assert language_of(text)[0] == language


def test_text_is_normalised():
    assert normalise("か\u3099\r\nA\u200bB \r\n\n\n\n\n終\ufeff\n", "NFC") == "が\nAB\n\n\n終"
    assert normalise("ＡＢ１", "NFC") == "ＡＢ１"
    assert normalise("ＡＢ１", "NFKC") == "AB1"


def test_questions_are_found_however_they_are_written_and_look_alikes_are_not():
    questions = [("q:1", QUESTION), ("q:2", ENGLISH_QUESTION), ("q:3", "花の都とは？")]
    evaluation = EvaluationTexts(questions)
    for text in (
        QUESTION,
        story(1) + QUESTION[5:40] + story(2),
        "\n".join(QUESTION),
        QUESTION.replace("、", " ").replace("。", "\n"),
        ENGLISH_QUESTION.upper(),
        "So: " + " ".join(ENGLISH_QUESTION.split()[4:18]),
        "答えなさい。花の都とは？",
    ):
        assert evaluation.found_in(text), text
    for text in (
        story(1),
        QUESTION[:12] + story(3),
        "A baker makes seven trays of rolls each morning and sells them all.",
        "花の都とはパリのことである。",
        "彼は言った。あの花の都とは？",
    ):
        assert evaluation.found_in(text) is None, text


def test_minhash_finds_what_is_alike_and_no_more():
    near = NearDuplicates()
    text = story(1, 200)

    def alike(other: str) -> bool:
        return bool((band_hashes(text, near) == band_hashes(other, near)).any())

    assert alike(text.replace("した", "なる", 2))
    assert not alike(text[: len(text) // 2] + story(2, 100))
    assert band_hashes("短い", near) is None


def test_a_recipe_names_what_is_wrong_with_it():
    one = CorpusInput("ja", ("a.jsonl",), "ja")
    for inputs, fields, part in (
        ((), {}, "at least one"),
        ((one, one), {}, "given once"),
        ((dataclasses.replace(one, name="../x"),), {}, "plain letters"),
        ((dataclasses.replace(one, paths="a.jsonl"),), {}, "a tuple"),
        ((dataclasses.replace(one, text=""),), {}, "a field's name"),
        ((one,), {"normalisation": "NFD"}, "NFC or NFKC"),
        ((one,), {"part_bytes": 0}, "greater than 0"),
    ):
        with pytest.raises(InputError, match=part):
            CorpusRecipe(inputs, **fields)
