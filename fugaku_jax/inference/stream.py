"""Text while its tokens come: only whole characters, and nothing that a stop string may take back.

What a tokenizer makes of tokens is not what it makes of each: a character may be several byte
pieces, and a space at the start of a text may be the tokenizer's own.
"""

from collections.abc import Iterable, Sequence

from fugaku_jax.data.tokenizer import Tokenizer


class Detokenizer:
    """Tokens to text. What all calls return, joined, is `tokenizer.decode` of all tokens.

    Of those that stand before them, the text is left out.
    """

    def __init__(self, tokenizer: Tokenizer, before: Iterable[int] = ()) -> None:
        """Args: what reads tokens; the tokens that the text goes on from."""
        self._tokenizer = tokenizer
        self._window: list[int] = []  # tokens on which the text of the next ones may depend
        self._given = ""  # the window's text, as far as it was returned
        self.add(before)

    def add(self, tokens: Iterable[int]) -> str:
        """Return the text that is settled by these tokens and was not before."""
        return "".join(map(self._add, tokens))

    def end(self) -> str:
        """Return the text of what was waiting for tokens that do not come."""
        return self._rest(self._window)

    def _add(self, token: int) -> str:
        self._window.append(token)
        new = self._rest(self._window[: len(self._window) - self._open_bytes()])
        # What follows a visible piece does not depend on what stands before it.
        if self._tokenizer.byte(token) is None:
            alone = self._tokenizer.decode([token])
            if alone.strip():
                self._window, self._given = [token], alone
        return new

    def _rest(self, window: Sequence[int]) -> str:
        text = self._tokenizer.decode(window)
        new, self._given = text[len(self._given) :], text
        return new

    def _open_bytes(self) -> int:
        """Count the last bytes if they may begin a character: UTF-8 says how many it has."""
        for count, token in enumerate(reversed(self._window[-3:]), start=1):
            byte = self._tokenizer.byte(token)
            if byte is None or byte < 0x80:
                return 0
            if byte >= 0xC0:
                needed = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
                return count if count < needed else 0
        return 0


class Until:
    """Text up to the first of some strings."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._held = ""
        self.found = False
        """Whether one of them came; no text follows."""

    def add(self, text: str) -> str:
        """Return what is surely before any of them."""
        self._held += text
        places = [place for stop in self._stops if (place := self._held.find(stop)) >= 0]
        if self.found or places:
            shown = "" if self.found else self._held[: min(places)]
            self.found, self._held = True, ""
            return shown
        safe = len(self._held) - self._beginning()
        shown, self._held = self._held[:safe], self._held[safe:]
        return shown

    def end(self) -> str:
        """Return what was held back."""
        shown, self._held = self._held, ""
        return shown

    def _beginning(self) -> int:
        """Return how many of the last characters may begin one of the strings."""
        longest = max(map(len, self._stops), default=1) - 1
        ends = (self._held[-n:] for n in range(min(longest, len(self._held)), 0, -1))
        return next((len(e) for e in ends if any(s.startswith(e) for s in self._stops)), 0)
