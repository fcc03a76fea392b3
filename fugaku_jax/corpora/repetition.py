"""How much of a text repeats itself: n-grams of characters, natively and in Python.

Own code: a filter over n-grams in Python, as datatrove's and HojiChar's are, does below 1 MB/s.
"""

import ctypes
from collections import Counter

import numpy as np

from fugaku_jax.corpora import native

LONGEST = 10


def ngram_counts(text: str) -> list[tuple[int, int, int]]:
    """Count the n-grams of a text's characters, for n from 2 to 10.

    Returns:
        for each n how often the most frequent one occurs (0 if there is none), how many different
        ones there are, and how many of these occur more than once.
    """
    library = native.library()
    if library is None:
        return plain_ngram_counts(text)
    data = text.encode("utf-32-le")
    found = np.empty((3, LONGEST - 1), np.int64)
    rows = [ctypes.c_void_p(row.ctypes.data) for row in found]
    library.fugaku_ngrams(
        ctypes.c_char_p(data), ctypes.c_int64(len(text)), ctypes.c_int64(LONGEST), *rows
    )
    return [(top, different, repeated) for top, different, repeated in found.T.tolist()]


def plain_ngram_counts(text: str) -> list[tuple[int, int, int]]:
    """Count as `ngram_counts` does, in Python."""
    found = []
    for n in range(2, LONGEST + 1):
        counts = Counter(text[i : i + n] for i in range(len(text) - n + 1))
        repeated = sum(count > 1 for count in counts.values())
        found.append((max(counts.values(), default=0), len(counts), repeated))
    return found
