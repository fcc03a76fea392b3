"""What a store holds, as tables for a terminal."""

from collections import Counter

from rich.box import SIMPLE
from rich.table import Table
from rich.text import Text

from fugaku_jax.data.mixture import integer_parts
from fugaku_jax.data.store import Store
from fugaku_jax.data.store_format import SPLITS


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
            for table in store.documents(index, split).tables(["licence"]):
                for entry in table["licence"].value_counts().to_pylist():
                    count[entry["values"]] += entry["counts"]
    return count
