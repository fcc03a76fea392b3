"""The document tables of a store as Croissant has tables: their files, record sets and fields."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from fugaku_jax.data.store import Store
from fugaku_jax.data.store_format import SplitName

_COLUMNS = (
    ("id", "sc:Text", "sc:identifier", "what the document is called"),
    ("source", "sc:Text", "prov:hadPrimarySource", "where it comes from"),
    ("licence", "sc:Text", "sc:license", "its licence; null: not known"),
    ("sha256", "sc:Text", "sc:sha256", "of its text in UTF-8"),
    ("start", "sc:Integer", None, "its first token, of those of the split"),
    ("length", "sc:Integer", None, "its tokens, with the end-of-document token"),
    ("bytes", "sc:Integer", "sc:contentSize", "of its text in UTF-8"),
    ("decisions", "sc:Text", None, "what filters decided of it; null: nothing is known"),
)
_PARQUET = "application/x-parquet"  # by this name readers of Croissant know it


def property_values(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return values by name as schema.org has them; `value` alone is Croissant's own word."""
    return [
        {"@type": "sc:PropertyValue", "name": name, "sc:value": value}
        for name, value in values.items()
    ]


def file_object(key: str, sha256: str, kind: str, base: str | None) -> dict[str, Any]:
    """Return a file of a store.

    Args:
        key: in the store.
        sha256: in hex.
        kind: its media type.
        base: URL that the store is published at; without it, the key is the file's URL.
    """
    return {
        "@type": "cr:FileObject",
        "@id": key,
        "name": key,
        "contentUrl": key if base is None else f"{base.rstrip('/')}/{key}",
        "encodingFormat": kind,
        "sha256": sha256,
    }


def table_files(
    store: Store, index: int, split: SplitName, base: str | None
) -> Iterator[dict[str, Any]]:
    """Yield the files of a document table that is not empty, and the set of them.

    Args:
        store: the store.
        index: which of its sets.
        split: which side of it.
        base: as of `file_object`.
    """
    files = list(store.documents(index, split).files())
    for key, sha256 in files:
        yield file_object(key, sha256, _PARQUET, base)
    yield {
        "@type": "cr:FileSet",
        "@id": _table(index, split),
        "name": f"document table of {store.sets[index].name}, {split}",
        "encodingFormat": _PARQUET,
        "includes": re.sub(r"\d+\.parquet$", "*.parquet", files[0][0]),
    }


def record_set(store: Store, index: int, split: SplitName) -> dict[str, Any]:
    """Return a document table as records, which are read from `table_files`."""
    token_set, name = store.sets[index], f"{index}/{split}"
    side, there = getattr(token_set, split), store.documents(index, split).columns
    said = {"domain": token_set.domain, "weight": token_set.weight, "split": split}
    said |= {each: getattr(side, each) for each in ("documents", "tokens", "bytes")}
    roots = {each: getattr(side, each) for each in ("documents_root", "tokens_root")}
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": f"{token_set.name}, {split}",
        "description": "A record is a document; `start` gives their order.",
        "dataType": "prov:Entity",
        "key": {"@id": f"{name}/start"},
        "identifier": property_values(roots),
        "additionalProperty": property_values(said),
        "field": [
            _field(name, _table(index, split), *column) for column in _COLUMNS if column[0] in there
        ],
    }


def _table(index: int, split: SplitName) -> str:
    return f"{index}/{split}.documents"


def _field(records: str, table: str, column: str, kind: str, same: str | None, what: str) -> dict:
    field = {
        "@type": "cr:Field",
        "@id": f"{records}/{column}",
        "name": column,
        "description": what,
        "dataType": kind,
        "source": {"fileSet": {"@id": table}, "extract": {"column": column}},
    }
    return field if same is None else field | {"equivalentProperty": same}
