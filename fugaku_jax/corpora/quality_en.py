"""Whether an English text is worth training on, by the rules of Gopher.

Source: Rae et al., Scaling Language Models (2021), table A1. Own code: datatrove's filter cuts
words by a tokenizer that has to be downloaded; here words are what spaces part.
"""

import re

from fugaku_jax.corpora.recipe import EnglishQuality

_STOP_WORDS = frozenset(("the", "be", "to", "of", "and", "that", "have", "with"))
_LETTER = re.compile(r"[^\W\d_]")
_BULLETS = ("•", "-", "*", "‣", "●", "◦")
_ELLIPSES = ("...", "…")


def english_fault(text: str, limits: EnglishQuality) -> str | None:
    """Return why a text does not pass, with value and threshold; None if it does."""
    words = text.split()
    least, most = limits.words
    if not least <= len(words) <= most:
        return f"{len(words)} words, not {least}–{most}"
    mean = sum(map(len, words)) / max(len(words), 1)
    if not limits.mean_word[0] <= mean <= limits.mean_word[1]:
        return f"mean word {mean:.2f} characters, not {limits.mean_word[0]}–{limits.mean_word[1]}"
    symbols = (text.count("#") + sum(map(text.count, _ELLIPSES))) / max(len(words), 1)
    if symbols > limits.symbols:
        return f"symbols a word {symbols:.3f} > {limits.symbols:g}"
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    bullets = sum(line.startswith(_BULLETS) for line in lines) / max(len(lines), 1)
    if bullets > limits.bullet_lines:
        return f"lines with bullets {bullets:.3f} > {limits.bullet_lines:g}"
    ellipses = sum(line.endswith(_ELLIPSES) for line in lines) / max(len(lines), 1)
    if ellipses > limits.ellipsis_lines:
        return f"lines that end in an ellipsis {ellipses:.3f} > {limits.ellipsis_lines:g}"
    alphabetic = sum(map(bool, map(_LETTER.search, words))) / max(len(words), 1)
    if alphabetic < limits.alphabetic_words:
        return f"words with a letter {alphabetic:.3f} < {limits.alphabetic_words:g}"
    found = len(_STOP_WORDS.intersection(map(str.lower, words)))
    if found < limits.stop_words:
        return f"stop words {found} < {limits.stop_words}"
    repeated = 1 - len(set(lines)) / max(len(lines), 1)
    if repeated > limits.duplicate_lines:
        return f"repeated lines {repeated:.3f} > {limits.duplicate_lines:g}"
    return None
