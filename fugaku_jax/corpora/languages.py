"""The language of a text: by its script where that decides, else by a small model.

The model is py3langid's (naive Bayes over byte n-grams, 97 languages), which lies in its package.
"""

import functools
import re
from typing import Any

from fugaku_jax.corpora.extras import extra

_SAMPLE = 1000  # characters from the beginning, and as many from the middle
_KANA = re.compile("[\u3041-\u3096\u30a1-\u30fa]")
_LETTER = re.compile(r"[^\W\d_]")
_LEAST_KANA = 0.10  # of the letters: no other language writes kana
_LEAST_PROBABILITY = 0.8


def language_of(text: str) -> tuple[str, str]:
    """Return the ISO 639-1 code of a text's language (`und` if that is not sure), and how
    that was found: `by script`, or the model's probability."""
    middle = max((len(text) - _SAMPLE) // 2, 0)
    sample = text[:_SAMPLE] + (text[middle : middle + _SAMPLE] if middle > _SAMPLE else "")
    letters = len(_LETTER.findall(sample))
    if letters < 10:
        return "und", "fewer than 10 letters"
    if len(_KANA.findall(sample)) >= _LEAST_KANA * letters:
        return "ja", "by script"
    language, probability = _identifier().classify(sample)
    if probability < _LEAST_PROBABILITY:
        return "und", f"{language} at {probability:.2f} only"
    return language, f"probability {probability:.2f}"


@functools.cache
def _identifier() -> Any:
    module = extra("py3langid.langid")
    return module.LanguageIdentifier.from_model_file(module.MODEL_FILE, norm_probs=True)
