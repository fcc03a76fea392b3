"""The 34 sets that Fugaku-LLM was trained on, with their weights."""

from fugaku_jax.corpora.recipe import (
    CodeQuality,
    CorpusInput,
    CorpusRecipe,
    EnglishQuality,
    JapaneseQuality,
    NearDuplicates,
)

# Billions of tokens, as the original's published scripts have them.
WEIGHTS = {
    "ja": {
        "ja_wiki": 1.594,
        "cc_a": 31.809,
        "cc_b": 22.976,
        "cc_1": 14.184,
        "cc_2": 14.441,
        "cc_3": 13.821,
        "cc_4": 16.717,
        "cc_5": 16.635,
        "cc_6": 22.117,
        "cc_7": 25.942,
        "cc_8": 37.327,
    },
    "en": {
        "books": 21.534,
        "lumi_arxiv": 14.300,
        "falcon": 11.254,
        "freelaw": 11.956,
        "pubmed": 5.309,
        "redpajama_cc": 31.674,
        "redpajama_arxiv": 9.563,
        "10_k": 0.370,
        "cuad_maud": 0.0107,
        "philarchive": 0.348,
        "nih": 0.423,
        "parliament": 0.134,
        "climabench": 0.0092,
        "redpajama_stackexchange": 4.603,
        "pile_stackexchange": 2.589,
        "uspto": 6.484,
        "en_wiki": 5.085,
    },
    "math": {"algebraic_stack": 11.068, "open_web_math": 14.681},
    "code": {"markdown": 16.945, "rust": 2.159, "tex": 0.974, "python": 10.966},
}
PAGES = ("cc_a", "cc_b", *(f"cc_{i}" for i in range(1, 9)), "falcon", "redpajama_cc")
"""What was crawled; the others were edited, and no rule for web pages is held against them."""


def fugaku_llm() -> CorpusRecipe:
    """Take the sets that are there, each from a folder of its name below `--root`.

    Expect: of 400 billion tokens Japanese 54.4 %, English 31.4 %, code 7.8 %, maths 6.4 %. The
    sets of a domain that are there take over the weight of those that are not, so that these shares
    stay. The original's data were never published: neither are its filters, so these are ours.
    What it would cost is in docs/corpora.md.
    Command: `python launch/data.py prepare fugaku_llm --root SETS --out CORPUS`.
    """
    return CorpusRecipe(
        inputs=tuple(
            _set(name, domain, weight)
            for domain, sets in WEIGHTS.items()
            for name, weight in sets.items()
        ),
        near_duplicates=NearDuplicates(),
        on_bad_line="skip",
        keep_domain_shares=True,
    )


def _set(name: str, domain: str, weight: float) -> CorpusInput:
    rules = {"ja": JapaneseQuality(), "en": EnglishQuality(), "code": CodeQuality(), "math": None}
    endings = ("jsonl", "jsonl.gz", "jsonl.zst", "parquet", "warc.gz")
    return CorpusInput(
        name,
        tuple(f"{name}/*.{ending}" for ending in endings),
        domain,
        weight=round(weight * 1e9),
        languages=(domain,) if domain in ("ja", "en") else (),
        quality=rules[domain] if name in PAGES or domain == "code" else None,
        optional=True,
    )
