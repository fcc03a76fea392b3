"""Whether a text, say an item of a task, stands in the training data of a store.

The rule is that of preparing corpora (`corpora/contamination.py`): 13 words in a row, or 20 letters
where words are not parted by spaces, or all of a shorter text. The index of the store's tokens says
where parts of the text stand; around these places the data is read and held against the rule, so
that it does not matter how the data cut the ends of a part into tokens.
"""

import numpy as np
from jaxtyping import Int64

from fugaku_jax.corpora.contamination import LETTERS, EvaluationTexts
from fugaku_jax.data.store import Store
from fugaku_jax.tracing.text_index import TextIndex

_PARTS, _PLACES = 6, 4
"""Parts of a text, the longest first, and places of each that are looked up."""


class Contamination:
    """Tells whether texts stand in the training data of a store."""

    def __init__(self, store: Store, index: TextIndex) -> None:
        """Args: the store, and its index."""
        self._store, self._index, self._tokenizer = store, index, store.tokenizer()

    def __call__(self, text: str) -> bool:
        """Tell of one text.

        Raises:
            InputError: the text is not Unicode, or the store is damaged.
        """
        tokens = np.array(self._tokenizer.encode(text), np.int32)
        if not len(tokens):
            return False
        rule = EvaluationTexts([("", text)])
        # What is shorter stands anywhere.
        least = min(LETTERS, len(text)) // 2
        for first, end in _longest_parts(self._index.longest(tokens)):
            said = self._tokenizer.decode_each(tokens[first:end])[0].decode(errors="replace")
            if len(said) < least:
                continue
            for set_index, place in self._index.find(tokens[first:end], _PLACES).places:
                if rule.found_in(self._around(set_index, place, len(tokens))):
                    return True
        return False

    def _around(self, set_index: int, place: int, margin: int) -> str:
        """Return the text of the document around a place, so many tokens before and twice after."""
        first = max(place - margin, 0)
        end = min(place + 2 * margin, self._store.sets[set_index].train.tokens)
        tokens = self._store.read(set_index, "train", np.array([first]), end - first)[0]
        ends = np.flatnonzero(tokens == self._store.end_of_document)
        begin = int(np.max(ends[ends < place - first], initial=-1)) + 1
        stop = int(np.min(ends[ends >= place - first], initial=len(tokens)))
        return self._tokenizer.decode_each(tokens[begin:stop])[0].decode(errors="replace")


def _longest_parts(longest: Int64[np.ndarray, "T"]) -> list[tuple[int, int]]:
    """Return (first token, end) of the parts that stand in the data and lie within no other."""
    parts, reached = [], 0
    for first, length in enumerate(longest.tolist()):
        if first + length > reached:
            reached = first + length
            parts.append((first, reached))
    return sorted(parts, key=lambda part: part[0] - part[1])[:_PARTS]
