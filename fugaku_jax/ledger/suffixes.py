"""Where a run of tokens stands in a long text of tokens: a suffix array, mapped from disk.

All places of a text in the order of what follows them: whatever is looked for stands in one run of
that order, found by bisection. Tokens lie as big-endian bytes, so that the order of bytes, in which
`memcmp` compares and libdivsufsort sorts, is that of tokens. Of 16-bit tokens a text takes six
bytes each: two of its own and four of its place in the order.

Source: Liu et al., "Infini-gram" (https://arxiv.org/abs/2401.17377).
"""

import mmap
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Integer, UInt32

from fugaku_jax.errors import InputError


def suffix_array(text: bytes, width: int) -> UInt32[np.ndarray, "N"]:
    """Return the places of a text, counted in tokens, in the order of what follows each.

    Args:
        text: N big-endian tokens, less than 2^31 bytes, by which libdivsufsort counts.
        width: bytes of a token.

    Raises:
        InputError: pydivsufsort is not installed.
    """
    try:
        from pydivsufsort import divsufsort
    except ImportError as error:
        raise InputError(
            "pydivsufsort is not installed; `pip install '.[data]'` does it."
        ) from error
    if not text:
        return np.empty(0, np.uint32)
    places = divsufsort(np.frombuffer(bytearray(text), np.uint8))
    return (places[places % width == 0] // width).astype(np.uint32)


def big_endian(tokens: Integer[np.ndarray, "N"], width: int) -> bytes:
    """Return tokens as bytes that sort as the tokens do; each has `width` bytes, 2 or 4."""
    return tokens.astype(f">u{width}").tobytes()


@dataclass(frozen=True)
class Suffixes:
    """A text with its suffix array."""

    text: bytes | mmap.mmap
    """N big-endian tokens."""
    places: UInt32[np.ndarray, "N"]
    width: int
    """Bytes of a token."""

    @classmethod
    def open(cls, text: Path, places: Path, tokens: int, width: int) -> "Suffixes":
        """Map both files into memory.

        Raises:
            ValueError: one is absent, or not as long as so many tokens make it.
        """
        for path, size in ((text, width * tokens), (places, 4 * tokens)):
            there = path.stat().st_size if path.exists() else None
            if there != size:
                raise ValueError(f"{path.name} has {there} bytes where {size} belong")
        with text.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        # As a plain array, whose single elements are read faster.
        return cls(mapped, np.asarray(np.memmap(places, "<u4", "r")), width)

    def longest(self, tokens: bytes) -> int:
        """Return how many of these tokens, from the first on, stand together in the text."""
        at = bisect_left(self.places, tokens, key=self._from(len(tokens)))
        # What has most in common with them stands beside where they would.
        beside = (self.places[i] for i in (at - 1, at) if 0 <= i < len(self.places))
        return max((self._in_common(int(place), tokens) for place in beside), default=0)

    def find(self, tokens: bytes) -> UInt32[np.ndarray, "n"]:
        """Return all places at which these tokens stand, in the order of what follows."""
        key = self._from(len(tokens))
        first = bisect_left(self.places, tokens, key=key)
        return self.places[first : bisect_right(self.places, tokens, lo=first, key=key)]

    def _from(self, size: int):
        text, width = self.text, self.width
        return lambda place: text[(at := int(place) * width) : at + size]

    def _in_common(self, place: int, tokens: bytes) -> int:
        here = self.text[place * self.width : place * self.width + len(tokens)]
        both = len(here)
        if here == tokens[:both]:
            return both // self.width
        differing = np.frombuffer(here, np.uint8) != np.frombuffer(tokens, np.uint8, both)
        return int(differing.argmax()) // self.width
