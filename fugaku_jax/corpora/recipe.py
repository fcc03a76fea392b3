"""What a recipe of a corpus says: its inputs, and what each stage lets pass."""

import dataclasses
import json
from dataclasses import dataclass
from typing import Literal

from fugaku_jax.errors import InputError
from fugaku_jax.sections.checks import require, require_listed, require_positive


@dataclass(frozen=True)
class JapaneseQuality:
    """Thresholds for Japanese text, by default those of Swallow corpus v1; None lets all pass.

    Source: Okazaki et al., Building a Large Japanese Web Corpus (2024), and its published code.
    """

    letters: int = 400
    """Characters at least, and as many Japanese ones."""
    duplicate_lines: float | None = 0.30
    """Share of lines, and of sentences, that repeat an earlier one, at most."""
    duplicate_characters: float | None = 0.20
    """Share of characters in such lines, and in such sentences, at most."""
    top_ngrams: tuple[float, ...] | None = (0.20, 0.18, 0.16)
    """Share of the most frequent 2-, 3- and 4-gram of characters among all, at most."""
    duplicate_ngrams: tuple[float, ...] | None = (0.15, 0.14, 0.13, 0.12, 0.11, 0.10)
    """Share of the different 5- to 10-grams of characters that occur more than once, at most."""
    hiragana: float = 0.2
    """Of the Japanese characters, at least."""
    katakana: float = 0.5
    """Of the Japanese characters, at most."""
    japanese: float = 0.5
    """Of all characters, at least."""
    mean_sentence: tuple[float, float] | None = (20, 90)
    """Characters, at least and at most."""
    longest_sentence: int | None = 200
    """Characters at most."""
    ellipsis_endings: float | None = 0.2
    """Share of sentences that end in an ellipsis, at most."""


@dataclass(frozen=True)
class EnglishQuality:
    """Thresholds for English text, by default those of Gopher (Rae et al. 2021, table A1)."""

    words: tuple[int, int] = (50, 100_000)
    """Words, at least and at most."""
    mean_word: tuple[float, float] = (3, 10)
    """Characters a word, at least and at most."""
    symbols: float = 0.1
    """`#` and ellipses a word, at most."""
    bullet_lines: float = 0.9
    """Share of lines that begin with a bullet, at most."""
    ellipsis_lines: float = 0.3
    """Share of lines that end in an ellipsis, at most."""
    alphabetic_words: float = 0.8
    """Share of words with a letter, at least."""
    stop_words: int = 2
    """Different ones of `the be to of and that have with`, at least."""
    duplicate_lines: float = 0.30
    """Share of lines that repeat an earlier one, at most."""


@dataclass(frozen=True)
class CodeQuality:
    """Thresholds for code, by default those of Codex and StarCoder."""

    longest_line: int = 1000
    """Characters at most."""
    mean_line: float = 100
    """Characters at most."""
    alphanumeric: float = 0.25
    """Share of characters that are letters or digits, at least."""


@dataclass(frozen=True)
class NearDuplicates:
    """Documents as alike as this are copies: MinHash over n-grams of characters, in bands.

    Two documents of Jaccard similarity s share a band with probability 1 − (1 − s^rows)^bands.
    """

    ngram: int = 5
    """Characters an n-gram."""
    bands: int = 20
    rows: int = 40
    """Hashes a band."""


@dataclass(frozen=True)
class EvaluationSet:
    """Texts that must not be trained on."""

    path: str
    """`.jsonl` (an object a line), `.tsv` (columns are named 0, 1, …)."""
    fields: tuple[str, ...]
    """Which are looked for: strings, or lists of strings."""


@dataclass(frozen=True)
class CorpusInput:
    """Files that become one set of the mixture."""

    name: str
    """Lower-case letters, digits, `_`, `-` and `.`."""
    paths: tuple[str, ...]
    """Files, patterns or URLs of fsspec's; without a scheme they are relative to `--root`."""
    domain: str
    """ja, en, math, code, …"""
    weight: float | None = None
    """Share in the mixture, in tokens; None: the tokens that it has."""
    text: str = "text"
    """Field or column that holds the text, of JSONL and Parquet."""
    source: str | None = None
    """Of documents that say none themselves."""
    licence: str | None = None
    """Likewise."""
    languages: tuple[str, ...] = ()
    """Codes of ISO 639-1 that pass; all do if there are none."""
    quality: JapaneseQuality | EnglishQuality | CodeQuality | None = None
    mask: bool = True
    """Whether personal data are masked."""
    optional: bool = False
    """Whether the set may be absent."""


@dataclass(frozen=True)
class CorpusRecipe:
    """How a corpus is made. Of several copies that of the first input is kept."""

    inputs: tuple[CorpusInput, ...]
    evaluation: tuple[EvaluationSet, ...] = ()
    normalisation: Literal["NFC", "NFKC"] = "NFC"
    """Unicode's form. NFKC makes full-width letters, digits and brackets ASCII."""
    near_duplicates: NearDuplicates | None = NearDuplicates()
    """None leaves them in."""
    require_licence: bool = True
    """Whether a document without a licence stops the preparation."""
    on_bad_line: Literal["stop", "skip"] = "stop"
    """What to do at a line that is no document, or where a file is damaged."""
    part_bytes: int = 1 << 26
    """Stored bytes of a file a task, about."""
    keep_domain_shares: bool = False
    """Whether, where sets are absent, the others of their domain take over their weight."""

    def __post_init__(self) -> None:
        require(len(self.inputs) > 0, "inputs", self.inputs, "at least one")
        require_listed(self, "recipe", "normalisation", "on_bad_line")
        require_positive(self, "recipe", "part_bytes")
        if self.near_duplicates:
            require_positive(self.near_duplicates, "near_duplicates", "ngram", "bands", "rows")
        for each in self.inputs:
            paths = f"paths of input {each.name}"
            require(isinstance(each.paths, tuple) and all(each.paths), paths, each.paths, "a tuple")
            require(bool(each.text), f"text of input {each.name}", each.text, "a field's name")
        names = [each.name for each in self.inputs]
        for name in names:
            allowed = name and set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789_-.")
            require(bool(allowed) and name[0] not in ".-", "input name", name, "plain letters")
            require(names.count(name) == 1, "input name", name, "given once")

    def digestible(self) -> str:
        """Return all that the recipe says, as JSON that is the same for equal recipes."""
        fields = dataclasses.asdict(self)
        for each, given in zip(fields["inputs"], self.inputs, strict=True):
            each["quality_kind"] = type(given.quality).__name__
        return json.dumps(fields, ensure_ascii=False, sort_keys=True)


def check_recipe(value: object, where: str) -> CorpusRecipe:
    """Return what a recipe's function gave.

    Raises:
        InputError: it is no recipe of a corpus.
    """
    if not isinstance(value, CorpusRecipe):
        raise InputError(f"{where}: must return a CorpusRecipe, got {type(value).__name__}.")
    return value
