"""Whether a Japanese text is worth training on, by the rules of Swallow corpus v1.

Source: Okazaki et al., Building a Large Japanese Web Corpus for Large Language Models (2024), and
the code published with it. As there, n-grams are of characters, and a sentence ends at one of
`。．！？!?` or at the line's end. Other than there, empty lines are no lines: Swallow's extractor leaves
none, while books and Markdown part their paragraphs by them.
"""

import re
from collections.abc import Iterator, Sequence

from fugaku_jax.corpora.recipe import JapaneseQuality
from fugaku_jax.corpora.repetition import ngram_counts

_SENTENCE = re.compile("[^。．！？!?\n]+[。．！？!?]?")
_HIRAGANA = re.compile("[\u3041-\u3096]+")
_KATAKANA = re.compile("[\u30a1-\u30fa]+")
_KANJI = re.compile("[々〇〻\u3400-\u9fff\uf900-\ufaff\U00020000-\U0002fa1f]+")
_MARKS = re.compile("[、，。．！？]+")


def japanese_fault(text: str, limits: JapaneseQuality) -> str | None:
    """Return why a text does not pass, with value and threshold; None if it does."""
    return next(_faults(text, limits), None)


def _faults(text: str, limits: JapaneseQuality) -> Iterator[str]:
    """What is wrong with a text. Cheap rules come first, as one is enough."""
    if len(text) < limits.letters:
        yield f"{len(text)} characters < {limits.letters}"
        return
    hiragana, katakana, kanji, marks = (
        sum(map(len, each.findall(text))) for each in (_HIRAGANA, _KATAKANA, _KANJI, _MARKS)
    )
    japanese = hiragana + katakana + kanji + marks
    if japanese < limits.letters:
        yield f"{japanese} Japanese characters < {limits.letters}"
        return
    yield from _below("Japanese characters", japanese / len(text), limits.japanese)
    yield from _below("hiragana", hiragana / max(japanese, 1), limits.hiragana)
    yield from _above("katakana", katakana / max(japanese, 1), limits.katakana)
    sentences = _SENTENCE.findall(text)
    yield from _sentence_faults(sentences, limits)
    lines = [line for line in text.split("\n") if line]
    for name, parts in (("lines", lines), ("sentences", sentences)):
        number, characters = _repeated(parts)
        yield from _above(f"repeated {name}", number, limits.duplicate_lines)
        yield from _above(f"characters in repeated {name}", characters, limits.duplicate_characters)
    if limits.top_ngrams is None and limits.duplicate_ngrams is None:
        return
    counts = ngram_counts(text)
    for n, limit in enumerate(limits.top_ngrams or (), 2):
        share = counts[n - 2][0] / max(len(text) - n + 1, 1)
        yield from _above(f"most frequent {n}-gram", share, limit)
    for n, limit in enumerate(limits.duplicate_ngrams or (), 5):
        _, different, repeated = counts[n - 2]
        yield from _above(f"repeated {n}-grams", repeated / max(different, 1), limit)


def _sentence_faults(sentences: Sequence[str], limits: JapaneseQuality) -> Iterator[str]:
    lengths = [len(each) for each in sentences] or [0]
    mean = sum(lengths) / len(lengths)
    if limits.mean_sentence is not None:
        least, most = limits.mean_sentence
        if not least <= mean <= most:
            yield f"mean sentence {mean:.1f} characters, not {least:g}–{most:g}"
    if limits.longest_sentence is not None and max(lengths) > limits.longest_sentence:
        yield f"longest sentence {max(lengths)} characters > {limits.longest_sentence}"
    if limits.ellipsis_endings is not None:
        endings = sum(each.rstrip().endswith(("・", "…")) for each in sentences)
        share = endings / max(len(sentences), 1)
        yield from _above("ellipsis endings", share, limits.ellipsis_endings)


def _repeated(parts: Sequence[str]) -> tuple[float, float]:
    """The share of parts that repeat an earlier one, and of characters in them."""
    total, different = sum(map(len, parts)), set(parts)
    once = sum(map(len, different))
    if not total:
        return 0.0, 0.0
    return 1 - len(different) / len(parts), 1 - once / total


def _above(name: str, value: float, limit: float | None) -> Iterator[str]:
    if limit is not None and value > limit:
        yield f"{name} {value:.3f} > {limit:g}"


def _below(name: str, value: float, limit: float) -> Iterator[str]:
    if value < limit:
        yield f"{name} {value:.3f} < {limit:g}"
