"""Whether a text holds a part of an evaluation set.

Only letters and digits count, in one case and one width, so that spaces, line breaks and signs hide
nothing. A text is contaminated if it holds 13 words in a row of a question (Brown et al. 2020,
appendix C), or 20 letters in a row where words are not parted by spaces; of a question that is
shorter all of it. One of fewer than 12 letters may stand in any text, so it counts only where it is
a whole sentence with a question mark.

Own code: datatrove's stage cuts all text into words by a tokenizer that has to be downloaded, in
Python. Here hashes of every 6 letters of a text are held against those that parts of questions
begin with, where these agree hashes of 12, and what still agrees is compared letter by letter.
"""

import functools
import itertools
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Integer, UInt32, UInt64

from fugaku_jax.corpora.recipe import EvaluationSet
from fugaku_jax.data.lines import parse_line, read_lines
from fugaku_jax.errors import InputError

WORDS, LETTERS, LEAST_LETTERS = 13, 20, 12
_ANCHOR = 12  # letters, by which a place is found
_PREFIX = 6  # of them: what most places are ruled out by
_FACTOR, _FACTOR_32 = 0x9E3779B97F4A7C15, np.uint32(0x9E3779B1)
_SQUARE_32 = np.uint32(0x9E3779B1**2 & 0xFFFFFFFF)
_POWERS = np.array([pow(_FACTOR, n, 1 << 64) for n in range(_ANCHOR)], np.uint64)
_FILTER_BITS = 20
_QUESTION_MARK = re.compile("[？?]")
_SENTENCE_END = re.compile(r"[。．！？!?\n「」『』]|\. ")


class EvaluationTexts:
    """What must not be trained on."""

    def __init__(self, questions: Sequence[tuple[str, str]]) -> None:
        """Prepare to look for questions, given as (where it stands, text)."""
        self._short: dict[str, str] = {}
        needles: dict[str, str] = {}
        for where, text in questions:
            parts = _needles(text)
            for part in parts:
                needles.setdefault(part, where)
            if not parts:
                self._short.setdefault(_plain(text), where)
        letters = _code_points("".join(needle[:_ANCHOR] for needle in needles))
        places = np.arange(0, len(letters), _ANCHOR)
        self._needles: dict[int, dict[str, str]] = {}
        for anchor, (needle, where) in zip(
            _hashes(letters, places).tolist(), needles.items(), strict=True
        ):
            self._needles.setdefault(anchor, {})[needle] = where
        self._begins = np.zeros(1 << _FILTER_BITS, bool)
        self._begins[_prefixes(letters)[places]] = True

    def found_in(self, text: str) -> str | None:
        """Return which question a text holds a part of, and the part; None if it holds none."""
        if found := self._short_question(text):
            return found
        letters = _letters(_code_points(text))
        if not self._needles or len(letters) < _ANCHOR:
            return None
        places = np.flatnonzero(self._begins[_prefixes(letters)[: len(letters) - _ANCHOR + 1]])
        plain = ""
        for place, anchor in zip(places.tolist(), _hashes(letters, places).tolist(), strict=True):
            for needle, where in self._needles.get(anchor, {}).items():
                plain = plain or letters.tobytes().decode("utf-32-le")
                if plain.startswith(needle, place):
                    return f"{where}: {needle}"
        return None

    def _short_question(self, text: str) -> str | None:
        if not self._short:
            return None
        for mark in _QUESTION_MARK.finditer(text):
            sentence = text[max(mark.start() - 2 * LEAST_LETTERS, 0) : mark.start()]
            plain = _plain(_SENTENCE_END.split(sentence)[-1])
            if plain and plain in self._short:
                return f"{self._short[plain]}: {plain}"
        return None


def read_evaluation_set(each: EvaluationSet, path: Path) -> list[tuple[str, str]]:
    """Return the questions of a set, each with where it stands: `FILE:LINE`.

    Raises:
        InputError: the file cannot be read, or a line lacks a field.
    """
    questions = []
    try:
        with path.open("rb") as file:
            lines = [line for line in read_lines(file, path.name) if line.strip()]
        for number, line in enumerate(lines, 1):
            if path.name.endswith(".tsv"):
                fields = dict(zip(map(str, range(100)), line.decode().split("\t"), strict=False))
            else:
                fields = parse_line(line)
            for name in each.fields:
                value = fields[name] if isinstance(fields, dict) and name in fields else None
                texts = value if isinstance(value, list) else [value]
                if not all(isinstance(text, str) for text in texts):
                    raise ValueError(f"line {number} has no text `{name}`")
                questions += [(f"{path.name}:{number}", text) for text in texts]
    except (OSError, ValueError) as error:
        raise InputError(f"evaluation set {path}: cannot be read: {error}.") from error
    return questions


def _needles(text: str) -> list[str]:
    """The parts of a question of which none may stand in a text.

    They are of the longest length that counts, as letters without what is between them.
    """
    words = [word for word in (_plain(each) for each in text.split()) if word]
    whole = "".join(words)
    if len(whole) < LEAST_LETTERS:
        return []
    if _is_spaced(words):
        starts = [0, *itertools.accumulate(map(len, words))]
        length = min(WORDS, len(words))
        spans = [(starts[i], starts[i + length]) for i in range(len(words) - length + 1)]
    else:
        length = min(LETTERS, len(whole))
        spans = [(i, i + length) for i in range(len(whole) - length + 1)]
    return [whole[i:j] for i, j in spans if j - i >= LEAST_LETTERS]


def _is_spaced(words: Sequence[str]) -> bool:
    """Whether a script parts its words: its words are mostly ASCII."""
    return sum(word.isascii() for word in words) > len(words) / 2


def _plain(text: str) -> str:
    return _letters(_code_points(text)).tobytes().decode("utf-32-le")


def _code_points(text: str) -> UInt32[np.ndarray, "characters"]:
    return np.frombuffer(text.encode("utf-32-le"), np.uint32)


def _letters(points: UInt32[np.ndarray, "characters"]) -> UInt32[np.ndarray, "letters"]:
    folded = _folding()[points]
    return folded[folded != 0]


def _prefixes(letters: UInt32[np.ndarray, "letters"]) -> UInt32[np.ndarray, "places"]:
    """A number below 2^20 of the 6 letters that begin at each place where there are so many."""
    if len(letters) < _PREFIX:
        return np.empty(0, np.uint32)
    pairs = letters[:-1] * _FACTOR_32
    pairs += letters[1:]
    h = pairs[:-4] * _SQUARE_32
    h += pairs[2:-2]
    h *= _SQUARE_32
    h += pairs[4:]
    h ^= h >> np.uint32(15)
    h *= _FACTOR_32
    return h >> np.uint32(32 - _FILTER_BITS)


def _hashes(
    letters: UInt32[np.ndarray, "letters"], places: Integer[np.ndarray, "places"]
) -> UInt64[np.ndarray, "places"]:
    """A hash of the 12 letters that begin at each of some places."""
    parts = letters[places[:, None] + np.arange(_ANCHOR)]
    h = (parts * _POWERS).sum(axis=1, dtype=np.uint64)
    return h ^ h >> np.uint64(31)


@functools.cache
def _folding() -> UInt32[np.ndarray, "code_points"]:
    """Each character in NFKC and lower case, 0 if it is no letter and no digit."""
    table = np.zeros(0x110000, np.uint32)
    for point in range(0x30000):
        if 0xAC00 <= point < 0xD7A4 or 0x3400 <= point < 0xA000 or point >= 0x20000:
            table[point] = point  # their own forms; looking them up takes a second
            continue
        folded = unicodedata.normalize("NFKC", chr(point)).lower()
        if folded and folded[0].isalnum():
            table[point] = ord(folded[0])
    return table
