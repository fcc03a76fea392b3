"""Characters, lines and sentences of a text, natively and in Python.

Own code: HojiChar's and datatrove's filters go over a text in Python once for each rule.
"""

import ctypes
import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fugaku_jax.corpora import native

_SENTENCE = re.compile("[^。．！？!?\n]+[。．！？!?]?")
_HIRAGANA = re.compile("[\u3041-\u3096]+")
_KATAKANA = re.compile("[\u30a1-\u30fa]+")
_KANJI = re.compile("[々〇〻\u3400-\u9fff\uf900-\ufaff\U00020000-\U0002fa1f]+")
_MARKS = re.compile("[、，。．！？]+")


@dataclass(frozen=True)
class TextStatistics:
    """Counts of a text. A sentence ends behind one of `。．！？!?` or with its line.

    Empty lines are no lines, and marks without a sentence before them no sentences.
    """

    hiragana: int
    katakana: int
    kanji: int
    marks: int
    """`、，。．！？`"""
    lines: int
    line_characters: int
    repeated_lines: int
    """Lines that are the same as an earlier one."""
    repeated_line_characters: int
    sentences: int
    sentence_characters: int
    longest_sentence: int
    """Characters."""
    repeated_sentences: int
    repeated_sentence_characters: int
    ellipses: int
    """Sentences that end in `…` or `・`."""


def text_statistics(text: str) -> TextStatistics:
    """Return the counts of a text."""
    library = native.library()
    if library is None:
        return plain_text_statistics(text)
    found = np.empty(len(dataclasses.fields(TextStatistics)), np.int64)
    data = ctypes.c_char_p(text.encode("utf-32-le"))
    library.fugaku_statistics(data, ctypes.c_int64(len(text)), ctypes.c_void_p(found.ctypes.data))
    return TextStatistics(*found.tolist())


def plain_text_statistics(text: str) -> TextStatistics:
    """Return what `text_statistics` does, in Python."""
    scripts = (_HIRAGANA, _KATAKANA, _KANJI, _MARKS)
    characters = (sum(map(len, each.findall(text))) for each in scripts)
    lines = [line for line in text.split("\n") if line]
    sentences = _SENTENCE.findall(text)
    longest = max(map(len, sentences), default=0)
    ellipses = sum(each.rstrip().endswith(("・", "…")) for each in sentences)
    counts = [*characters, len(lines), sum(map(len, lines)), *_repeated(lines)]
    counts += [len(sentences), sum(map(len, sentences)), longest, *_repeated(sentences), ellipses]
    return TextStatistics(*counts)


def _repeated(parts: Sequence[str]) -> tuple[int, int]:
    different = set(parts)
    characters = sum(map(len, parts)) - sum(map(len, different))
    return len(parts) - len(different), characters
