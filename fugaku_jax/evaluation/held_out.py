"""Which held-out documents are scored, and reading them as one stream of tokens."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Integer

from fugaku_jax.data.store import Store


@dataclass(frozen=True)
class Selection:
    """Whole held-out documents of one set."""

    set_index: int
    """Which of `Store.sets`."""
    domain: str
    """The set's domain."""
    spans: tuple[tuple[int, int], ...]
    """(first token, tokens) of the documents in the held-out tokens; neighbours are joined."""
    tokens: int
    """Tokens of the documents, one end-of-document token each included."""
    bytes: int
    """UTF-8 bytes of the documents; 0 of dialogues, whose answers alone are scored."""
    xz_bytes: int | None
    """Size of all held-out documents under xz; None unless all of them are here."""


def select_documents(store: Store, max_tokens_per_domain: int | None) -> list[Selection]:
    """Choose held-out documents of every set that has some.

    Sets of one domain share its tokens in proportion to what they hold out.

    Args:
        max_tokens_per_domain: documents are taken in the store's order as long as they fit; the
            shortest one if none of a set fits. None takes all.

    Raises:
        InputError: a document table is corrupt.
    """
    held_out: dict[str, int] = {}
    for each in store.sets:
        held_out[each.domain] = held_out.get(each.domain, 0) + each.validation.tokens
    selections = []
    for index, each in enumerate(store.sets):
        split = each.validation
        if not split.tokens:
            continue
        budget = split.tokens
        if max_tokens_per_domain is not None:
            share = split.tokens / held_out[each.domain]
            budget = min(budget, int(max_tokens_per_domain * share))
        if store.row_tokens:  # what shares a row stays together, and a row at least is read
            rows = max(min(budget, split.tokens) // store.row_tokens, 1)
            spans, size = ((0, min(rows * store.row_tokens, split.tokens)),), 0
        elif budget == split.tokens:
            spans, size = ((0, split.tokens),), split.bytes
        else:
            spans, size = _fitting(store, index, budget)
        tokens = sum(length for _, length in spans)
        xz_bytes = split.xz_bytes if tokens == split.tokens else None
        selections.append(Selection(index, each.domain, spans, tokens, size, xz_bytes))
    return selections


def read_blocks(
    store: Store, selection: Selection, size: int
) -> Iterator[Integer[np.ndarray, " N"]]:
    """Read the selection as one stream in blocks of `size` tokens; the last may be shorter.

    Tokens of dialogues come with the marks of `data/marks.py`.
    """
    read = store.read_marked if store.row_tokens else store.read
    block = np.empty(size, np.uint32 if store.row_tokens else np.int32)
    filled = 0
    for first, length in selection.spans:
        end = first + length
        while first < end:
            part = min(size - filled, end - first)
            run = read(selection.set_index, "validation", np.array([first]), part)
            block[filled : filled + part] = run[0]
            filled, first = filled + part, first + part
            if filled == size:
                yield block.copy()
                filled = 0
    if filled:
        yield block[:filled].copy()


def _fitting(store: Store, index: int, budget: int) -> tuple[tuple[tuple[int, int], ...], int]:
    """Return joined spans and bytes of the documents that fit into `budget` tokens."""
    spans: list[tuple[int, int]] = []
    size, shortest = 0, None
    for table in store.documents(index, "validation").tables(["start", "length", "bytes"]):
        rows = zip(*(table[name].to_numpy().tolist() for name in table.column_names), strict=True)
        for first, length, count in rows:
            if shortest is None or length < shortest[1]:
                shortest = first, length, count
            if length <= budget:
                budget, size = budget - length, size + count
                if spans and sum(spans[-1]) == first:
                    spans[-1] = (spans[-1][0], spans[-1][1] + length)
                else:
                    spans.append((first, length))
    if shortest and not spans:
        return (shortest[:2],), shortest[2]
    return tuple(spans), size
