"""How llama.cpp cuts a text by a vocabulary of the kind `plamo2`, written again from its rules.

From the end of a text to its beginning, the cheapest way on from each place is kept, pieces being
tried from the longest to the shortest, and one character in bytes last. Prices are whole numbers:
scores by 1e4, rounded; 1e7 for a character in bytes; and what costs 2e7 or more is not tried.
Source: https://github.com/ggml-org/llama.cpp, src/llama-vocab.cpp, `llm_tokenizer_plamo2`.
"""

from fugaku_jax.interop.gguf_vocabulary import Vocabulary

BYTE = 6


class LlamaCppCuts:
    """Cuts texts."""

    def __init__(self, known: Vocabulary) -> None:
        self._pieces, self._bytes = {}, {}
        for id, (text, score, kind) in enumerate(zip(*known, strict=True)):
            if kind == BYTE:
                self._bytes[int(text[3:5], 16)] = id
                continue
            assert text not in self._pieces
            self._pieces[text] = id, round(float(score) * 1e4)
        self._longest = max(map(len, self._pieces))

    def cut(self, text: str) -> list[int]:
        """Return the ids of a text."""
        text = text.removeprefix("\ufeff")
        best: list[tuple[int, int, int | None]] = [(0, 0, None)] * (len(text) + 1)
        for place in range(len(text) - 1, -1, -1):
            ways = []
            for length in range(min(self._longest, len(text) - place), 0, -1):
                id, score = self._pieces.get(text[place : place + length], (0, -20_000_000))
                if score > -20_000_000:
                    ways.append((best[place + length][0] - score, length, id))
            ways.append((best[place + 1][0] + 10_000_000, 1, None))
            best[place] = min(ways, key=lambda way: way[0])  # the first of equals
        ids, place = [], 0
        while place < len(text):
            _, length, id = best[place]
            raw = text[place].encode()
            ids += [self._bytes[byte] for byte in raw] if id is None else [id]
            place += length
        return ids
