"""What a store holds, as tables for a terminal; and where a run meets one of its documents."""

import functools
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc
from rich.box import SIMPLE
from rich.table import Table
from rich.text import Text

from fugaku_jax.data.mixture import integer_parts
from fugaku_jax.data.order import SampleOrder
from fugaku_jax.data.store import Store
from fugaku_jax.data.store_format import SPLITS, SplitName
from fugaku_jax.errors import InputError


@dataclass(frozen=True)
class Sighting:
    """A document in a batch: tokens `[first, last]` of row `row` are its tokens."""

    step: int  # counted from 1, as a run's metrics count it
    row: int
    set_name: str
    first: int  # place of its first token in the row, of T + 1
    last: int  # place of its last token in the row


@dataclass(frozen=True)
class RowContent:
    """What a row of a batch holds: tokens `[first, last]` of a set's training split."""

    batch: int
    row: int
    set_name: str
    first: int
    last: int
    documents: list[str]  # ids of those that have a token in it, in their order

    def __str__(self) -> str:
        tokens = f"{self.set_name} tokens {self.first}-{self.last}"
        return f"batch {self.batch} row {self.row} {tokens}: {' '.join(self.documents)}"


def summary_tables(store: Store) -> list[Table]:
    """The sets of a store with their sizes and shares, and its licences.

    What the store says is text: rich would read markup in it.
    """
    sets = Table(
        title=Text(f"{store.url}\nvocabulary {store.vocab_size:,}   sha256 {store.sha256[:16]}…"),
        box=SIMPLE,
        title_justify="left",
        padding=(0, 0, 0, 1),
    )
    for name in ("set", "domain"):
        sets.add_column(name, no_wrap=True)
    for name in ("weight", "share", "tokens", "docs", "bytes/token", "held out"):
        sets.add_column(name, justify="right", no_wrap=True)
    parts = integer_parts([each.weight for each in store.sets])
    for each, part in zip(store.sets, parts, strict=True):
        sets.add_row(
            Text(each.name),
            Text(each.domain),
            _short(each.weight),
            f"{100 * part / sum(parts):.2f} %",
            f"{each.train.tokens:,}",
            f"{each.train.documents:,}",
            f"{each.train.bytes / max(each.train.tokens, 1):.2f}",
            f"{each.validation.tokens:,}",
        )
    licences = Table(box=SIMPLE)
    licences.add_column("licence")
    licences.add_column("documents", justify="right")
    for licence, count in _licences(store).most_common():
        licences.add_row(Text(licence or "not stated"), f"{count:,}")
    return [sets, licences]


def find_document(
    store: Store, order: SampleOrder, document: str, steps: int
) -> tuple[SplitName, list[Sighting]]:
    """On which side of the split a document is, and every time that a run sees tokens of it.

    Args:
        store: the store of the run.
        order: the order of the run's samples.
        document: the id of the document.
        steps: how many steps the run takes.

    Raises:
        InputError: no document has that id.
    """
    T, found = order.sequence_length, []
    side: SplitName | None = None
    for index, each in enumerate(store.sets):
        for split in SPLITS:
            table = store.documents(index, split)
            # Not by an expression, which Arrow would give to threads of its own.
            rows = table.filter(pc.call_function("equal", [table["id"], document])).to_pylist()
            side = side or (split if rows else None)
            for row in rows if split == "train" else ():
                start, stop = row["start"], row["start"] + row["length"]
                for step, batch_row, sample in order.occurrences(index, start, stop, steps):
                    first = max(start - sample * T, 0)
                    last = min(stop - 1 - sample * T, T)
                    found.append(Sighting(step + 1, batch_row, each.name, first, last))
    if side is None:
        raise InputError(f"--document {document}: no document of {store.url} has this id.")
    return side, sorted(found, key=lambda seen: (seen.step, seen.row))


def batch_rows(store: Store, order: SampleOrder, batches: Iterable[int]) -> Iterator[RowContent]:
    """Yield what each row of some batches holds.

    Args:
        store: the store of a run.
        order: the order of the run's samples.
        batches: their numbers in that order, counted from 0, be they passed over or not.
    """
    table_of = functools.cache(lambda index: store.documents(index, "train"))
    for batch in batches:
        sets, starts, _ = (column.tolist() for column in order.locate_batch(batch))
        for row, (index, first) in enumerate(zip(sets, starts, strict=True)):
            last, table = first + order.sequence_length, table_of(index)
            one, end = np.searchsorted(table["start"].to_numpy(), [first, last], side="right")
            documents = table["id"][int(one) - 1 : int(end)].to_pylist()
            yield RowContent(batch, row, store.sets[index].name, first, last, documents)


def _short(number: int | float) -> str:
    """A number with four digits and a unit: 217.6G."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:,.4g}{unit}"
    return f"{number:.4g}"


def _licences(store: Store) -> Counter[str | None]:
    count: Counter[str | None] = Counter()
    for index in range(len(store.sets)):
        for split in SPLITS:
            for entry in store.documents(index, split)["licence"].value_counts().to_pylist():
                count[entry["values"]] += entry["counts"]
    return count
