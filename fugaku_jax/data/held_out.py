"""Which side of a set a document goes to: it is trained on, or held out."""

from collections.abc import Mapping

import numpy as np

from fugaku_jax.data.split_writer import EncodedDocument
from fugaku_jax.data.store_format import SplitName
from fugaku_jax.data.token_files import Place
from fugaku_jax.data.writer import SetWriter


def is_held_out(sha256: str, fraction: int | float) -> bool:
    """Tell whether a store that holds out a fraction of all documents does so with that hash."""
    return int(sha256, 16) < int(fraction * 2**256)


class ByHash:
    """Sends each document to its side: held out if its sha256, as a fraction of all, is small.

    So a document falls on the same side in every store. Each side holds back the document with its
    largest hash: if the other side stays empty it goes there, so that neither side is empty when
    there are two documents (unless nothing is to be held out).
    """

    def __init__(self, writer: SetWriter, fraction: int | float) -> None:
        """Args: the set, and the fraction to hold out, from 0 to below 1."""
        self._writer = writer
        self._fraction = fraction
        self._held: dict[SplitName, EncodedDocument] = {}
        self._count = {"train": 0, "validation": 0}

    def append(self, document: EncodedDocument) -> None:
        """Sends a document. Raises InputError when the place is full."""
        if not self._fraction:
            self._writer.append(document, "train")
            return
        held_out = is_held_out(document.row.sha256, self._fraction)
        side: SplitName = "validation" if held_out else "train"
        self._count[side] += 1
        held = self._held.get(side)
        if held is None:
            self._held[side] = document
            return
        first, second = held, document
        if second.row.sha256 > first.row.sha256:
            first, second = second, first
        self._held[side] = first
        self._writer.append(second, side)

    def finish(self) -> None:
        """Sends what was held back."""
        for side, document in sorted(self._held.items()):
            if not self._count["train"]:
                side = "train"
            elif not self._count["validation"] and self._count["train"] > 1:
                side = "validation"
            self._writer.append(document, side)


class FromTheEnd:
    """Sends each document to its side as `places_of` has cut them: the last are held out."""

    def __init__(self, writer: SetWriter, places: Mapping[SplitName, Place]) -> None:
        """Args: the set, and where the tokens of its sides lie, one after the other in a file."""
        self._writer = writer
        first = places["validation"].offset - places["train"].offset
        self._train_tokens = first // np.dtype(places["train"].dtype).itemsize
        self._tokens = 0

    def append(self, document: EncodedDocument) -> None:
        """Sends a document. Raises InputError when the place is full."""
        side: SplitName = "train" if self._tokens < self._train_tokens else "validation"
        self._tokens += document.row.length
        self._writer.append(document, side)

    def finish(self) -> None:
        """Nothing was held back."""
