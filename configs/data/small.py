"""A corpus for trying: two Japanese files, English, code."""

from fugaku_jax.corpora.recipe import (
    CodeQuality,
    CorpusInput,
    CorpusRecipe,
    EnglishQuality,
    EvaluationSet,
    JapaneseQuality,
)


def small() -> CorpusRecipe:
    """Take `ja/*.jsonl*` as from the web, `pages/*.warc*`, `en/*.jsonl*`, `code/*.jsonl*`.

    What is not there is left out. Questions of `eval/questions.jsonl`, which must be there, are
    kept out. Files are read in parts of 1 MiB.
    Command: `python launch/data.py prepare small --root FOLDER --out CORPUS`.
    """
    ja = {"languages": ("ja",), "quality": JapaneseQuality(), "optional": True}
    return CorpusRecipe(
        inputs=(
            CorpusInput("ja", ("ja/*.jsonl*", "ja/*.parquet", "ja/*.txt"), "ja", **ja),
            CorpusInput("pages", ("pages/*.warc*",), "ja", licence="unknown", **ja),
            CorpusInput(
                "en",
                ("en/*.jsonl*",),
                "en",
                languages=("en",),
                quality=EnglishQuality(),
                optional=True,
            ),
            CorpusInput("code", ("code/*.jsonl*",), "code", quality=CodeQuality(), optional=True),
        ),
        evaluation=(EvaluationSet("eval/questions.jsonl", ("question",)),),
        part_bytes=1 << 20,
    )
