"""Openly licensed Japanese books and manuals, English classics, and school mathematics."""

from fugaku_jax.corpora.recipe import (
    CorpusInput,
    CorpusRecipe,
    EnglishQuality,
    EvaluationSet,
    JapaneseQuality,
)


def open_ja() -> CorpusRecipe:
    """Take what people have edited: rules for web pages that books break are lifted.

    Novels have sentences of more than 200 characters, and the longer a text the more of its n-grams
    of characters come again, so those thresholds, made for pages of some 2,000 characters, tell
    nothing of them. Manuals are half code. All else is as for the web.
    """
    book = JapaneseQuality(longest_sentence=None, mean_sentence=None, duplicate_ngrams=None)
    manual = JapaneseQuality(
        hiragana=0.1,
        katakana=0.7,
        japanese=0.15,
        longest_sentence=None,
        mean_sentence=None,
        duplicate_lines=None,
        duplicate_characters=None,
        duplicate_ngrams=None,
    )
    folder = "pretrain"
    return CorpusRecipe(
        inputs=(
            CorpusInput(
                "aozora",
                (f"{folder}/ja_aozora.jsonl.gz",),
                "ja",
                source="Aozora Bunko",
                languages=("ja",),
                quality=book,
            ),
            CorpusInput(
                "manuals",
                (f"{folder}/ja_rust_book.jsonl.gz", f"{folder}/ja_react_docs.jsonl.gz"),
                "ja",
                languages=("ja",),
                quality=manual,
            ),
            CorpusInput(
                "classics",
                (f"{folder}/en_classics.jsonl.gz",),
                "en",
                languages=("en",),
                quality=EnglishQuality(words=(50, 10_000_000)),
            ),
            CorpusInput("gsm8k", (f"{folder}/math_gsm8k_train.jsonl.gz",), "math"),
        ),
        evaluation=(
            EvaluationSet("eval/gsm8k_test.jsonl", ("question",)),
            EvaluationSet("eval/mgsm_ja.tsv", ("0",)),
            EvaluationSet("eval/jglue/jcommonsenseqa_valid-v1.3.json", ("question",)),
            EvaluationSet("eval/japanese_mt_bench/question_full.jsonl", ("turns",)),
        ),
        part_bytes=1 << 22,
    )
