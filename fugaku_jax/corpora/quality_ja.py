"""Whether a Japanese text is worth training on, by the rules of Swallow corpus v1.

Source: Okazaki et al., Building a Large Japanese Web Corpus for Large Language Models (2024), and
the code published with it. As there, n-grams are of characters, and a sentence ends at one of
`。．！？!?` or at the line's end. Other than there, empty lines are no lines: Swallow's extractor
leaves none, while books and Markdown part their paragraphs by them.
"""

from collections.abc import Iterator

from fugaku_jax.corpora.recipe import JapaneseQuality
from fugaku_jax.corpora.repetition import ngram_counts
from fugaku_jax.corpora.text_statistics import TextStatistics, text_statistics


def japanese_fault(text: str, limits: JapaneseQuality) -> str | None:
    """Return why a text does not pass, with value and threshold; None if it does."""
    return next(_faults(text, limits), None)


def _faults(text: str, limits: JapaneseQuality) -> Iterator[str]:
    """What is wrong with a text. Cheap rules come first, as one is enough."""
    if len(text) < limits.letters:
        yield f"{len(text)} characters < {limits.letters}"
        return
    found = text_statistics(text)
    japanese = found.hiragana + found.katakana + found.kanji + found.marks
    if japanese < limits.letters:
        yield f"{japanese} Japanese characters < {limits.letters}"
        return
    yield from _below("Japanese characters", japanese / len(text), limits.japanese)
    yield from _below("hiragana", found.hiragana / max(japanese, 1), limits.hiragana)
    yield from _above("katakana", found.katakana / max(japanese, 1), limits.katakana)
    yield from _sentence_faults(found, limits)
    lines, sentences = max(found.lines, 1), max(found.sentences, 1)
    yield from _above("repeated lines", found.repeated_lines / lines, limits.duplicate_lines)
    share = found.repeated_sentences / sentences
    yield from _above("repeated sentences", share, limits.duplicate_lines)
    share = found.repeated_line_characters / max(found.line_characters, 1)
    yield from _above("characters in repeated lines", share, limits.duplicate_characters)
    share = found.repeated_sentence_characters / max(found.sentence_characters, 1)
    yield from _above("characters in repeated sentences", share, limits.duplicate_characters)
    if limits.top_ngrams is None and limits.duplicate_ngrams is None:
        return
    counts = ngram_counts(text)
    for n, limit in enumerate(limits.top_ngrams or (), 2):
        share = counts[n - 2][0] / max(len(text) - n + 1, 1)
        yield from _above(f"most frequent {n}-gram", share, limit)
    for n, limit in enumerate(limits.duplicate_ngrams or (), 5):
        _, different, repeated = counts[n - 2]
        yield from _above(f"repeated {n}-grams", repeated / max(different, 1), limit)


def _sentence_faults(found: TextStatistics, limits: JapaneseQuality) -> Iterator[str]:
    sentences = max(found.sentences, 1)
    mean = found.sentence_characters / sentences
    if limits.mean_sentence is not None:
        least, most = limits.mean_sentence
        if not least <= mean <= most:
            yield f"mean sentence {mean:.1f} characters, not {least:g}–{most:g}"
    if limits.longest_sentence is not None and found.longest_sentence > limits.longest_sentence:
        yield f"longest sentence {found.longest_sentence} characters > {limits.longest_sentence}"
    yield from _above("ellipsis endings", found.ellipses / sentences, limits.ellipsis_endings)


def _above(name: str, value: float, limit: float | None) -> Iterator[str]:
    if limit is not None and value > limit:
        yield f"{name} {value:.3f} > {limit:g}"


def _below(name: str, value: float, limit: float) -> Iterator[str]:
    if value < limit:
        yield f"{name} {value:.3f} < {limit:g}"
