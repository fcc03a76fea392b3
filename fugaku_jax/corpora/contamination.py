"""Whether a text holds a part of an evaluation set.

Only letters and digits count, in one case and one width, so that spaces, line breaks and signs hide
nothing. A text is contaminated if it holds 13 words in a row of a question (Brown et al. 2020,
appendix C), or 20 letters in a row where words are not parted by spaces; of a question that is
shorter all of it. One of fewer than 12 letters may stand in any text, so it counts only where it is
a whole sentence with a question mark.

Own code: datatrove's stage cuts all text into words by a tokenizer that has to be downloaded, in
Python. Here an array of the text's hashes is held against those of the questions' beginnings, and
what agrees is compared letter by letter.
"""

import functools
import itertools
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt32, UInt64

from fugaku_jax.corpora.recipe import EvaluationSet
from fugaku_jax.data.lines import parse_line, read_lines
from fugaku_jax.errors import InputError

WORDS, LETTERS, LEAST_LETTERS = 13, 20, 12
_ANCHOR = 12  # letters, by which a place is found
_FACTOR = np.uint64(0x9E3779B97F4A7C15)
_FILTER_BITS = 22
_QUESTION_MARK = re.compile("[？?]")
_SENTENCE_END = re.compile(r"[。．！？!?\n「」『』]|\. ")


class EvaluationTexts:
    """What must not be trained on."""

    def __init__(self, questions: Sequence[tuple[str, str]]) -> None:
        """Prepare to look for questions, given as (where it stands, text)."""
        self._short: dict[str, str] = {}
        self._needles: dict[int, dict[str, str]] = {}
        for where, text in questions:
            needles = _needles(text)
            if not needles:
                self._short.setdefault(_plain(text), where)
            for anchor, needle in needles:
                self._needles.setdefault(anchor, {}).setdefault(needle, where)
        self._filter = np.zeros(1 << _FILTER_BITS, bool)
        anchors = np.array(list(self._needles), np.uint64)
        self._filter[anchors >> np.uint64(64 - _FILTER_BITS)] = True

    def found_in(self, text: str) -> str | None:
        """Return which question a text holds a part of, and the part; None if it holds none."""
        if found := self._short_question(text):
            return found
        letters = _letters(_code_points(text))
        if not self._needles or len(letters) < _ANCHOR:
            return None
        hashes = _hashes(letters)
        plain = ""
        for place in np.flatnonzero(self._filter[hashes >> np.uint64(64 - _FILTER_BITS)]):
            for needle, where in self._needles.get(int(hashes[place]), {}).items():
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


def _needles(text: str) -> list[tuple[int, str]]:
    """The parts of a question of which none may stand in a text, each with its anchor's hash.

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
    anchors = _hashes(_code_points(whole)).tolist()
    return [(anchors[i], whole[i:j]) for i, j in spans if j - i >= LEAST_LETTERS]


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


def _hashes(letters: UInt32[np.ndarray, "letters"]) -> UInt64[np.ndarray, "places"]:
    """A hash of the `_ANCHOR` letters that begin at each place: 12 by 1, 2, 3, 6 and 12."""
    h = letters.astype(np.uint64) * _FACTOR
    h ^= h >> np.uint64(29)
    h = _joined(h, h, 1)
    h = _joined(_joined(h, h, 2), h, 4)  # of 6 letters: 2 and 2 and 2
    h = _joined(h, h, 6)
    h ^= h >> np.uint64(31)
    h *= _FACTOR
    return h


def _joined(
    first: UInt64[np.ndarray, "a"], second: UInt64[np.ndarray, "b"], distance: int
) -> UInt64[np.ndarray, "c"]:
    n = len(second) - distance
    h = first[:n] * _FACTOR
    h += second[distance:]
    h ^= h >> np.uint64(32)
    return h


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
