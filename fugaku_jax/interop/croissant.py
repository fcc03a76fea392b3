"""What a store holds, as Croissant says it: the metadata that data sets for learning come with.

A file of Parquet is a `FileObject`, the document table of one side of a set a `RecordSet`. Roots
are identifiers. Where the documents come from, what made the store of them, and which run has read
it in which order is said in the terms of PROV-O.

Source: Croissant 1.1 (http://mlcommons.org/croissant/1.1), with its section on provenance.
"""

import base64
import datetime
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fugaku_jax.config import Config
from fugaku_jax.data.kvstore import open_location, storage_errors
from fugaku_jax.data.store import Store
from fugaku_jax.data.store_format import CROISSANT_KEY, SPLITS
from fugaku_jax.errors import InputError
from fugaku_jax.interop.croissant_records import (
    file_object,
    property_values,
    record_set,
    table_files,
)
from fugaku_jax.interop.licences import licence_link
from fugaku_jax.run.going_back import passed_over
from fugaku_jax.run.identity import run_identity

_ALIASES = (
    *("annotation", "arrayShape", "citeAs", "column", "containedIn", "equivalentProperty"),
    *("excludes", "extract", "field", "fileObject", "fileProperty", "fileSet", "format"),
    *("includes", "isArray", "isLiveDataset", "jsonPath", "key", "md5", "parentField", "path"),
    *("readLines", "recordSet", "references", "regex", "repeated", "replace", "samplingRate"),
    *("sdVersion", "separator", "source", "subField", "transform", "unArchive", "value"),
)
_CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/",
    "prov": "http://www.w3.org/ns/prov#",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "name": {"@container": "@language"},
    "description": {"@container": "@language"},
    **{name: f"cr:{name}" for name in _ALIASES},
}
_MOST_SOURCES = 1_000
_OTHERS = "other sources"


@dataclass(frozen=True)
class Publication:
    """What a store itself does not know of itself as a data set."""

    name: str
    """Of the data set."""
    url: str | None = None
    """Where it is published; files are named by their URLs below it."""
    creator: str | None = None
    """Who has put it together."""
    date: str | None = None
    """When it was published; today, if not given."""

    def __post_init__(self) -> None:
        place = urlsplit(self.url or "https://host")
        if place.scheme not in ("http", "https") or not place.netloc:
            raise InputError(
                f"--url {self.url}: must be where the data set is published, as in "
                "https://example.org/stores/ja."
            )
        try:
            datetime.date.fromisoformat(self.date or "2026-01-01")
        except ValueError:
            raise InputError(f"--date {self.date}: must be a day, as in 2026-01-31.") from None
        for option, value in (("--name", self.name), ("--creator", self.creator)):
            if value is not None and not value.strip():
                raise InputError(f"{option}: must not be empty.")


def croissant(
    store: Store, publication: Publication, order: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the metadata of a store's documents, as JSON-LD.

    Reads the columns of sources and licences of all document tables, a file at a time.

    Args:
        store: the store.
        publication: as what it is published.
        order: parameters of the order in which a run has read it, by name, if one has.

    Raises:
        InputError: the store is damaged.
    """
    sources = _sources(store)
    tokenizer, sha256 = store.tokenizer_file
    files = [file_object(tokenizer, sha256, "application/octet-stream", publication.url)]
    records = []
    for index in range(len(store.sets)):
        for split in SPLITS:
            if getattr(store.sets[index], split).documents:
                files += table_files(store, index, split, publication.url)
                records.append(record_set(store, index, split))
    found: dict[str, Any] = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.1",
        "name": publication.name,
        "description": (
            f"The documents of a token store of fugaku_jax ({_size(store)}). A record is a "
            "document: what it is, where it comes from, and which tokens it is. Files are "
            f"{'named' if publication.url is None else 'found'} as they lie in the store."
        ),
        "url": publication.url or _named_by(store.sha256),
        "creator": {"@type": "sc:Organization", "name": publication.creator or "not stated"},
        "datePublished": publication.date or datetime.date.today().isoformat(),
        "license": sorted({licence_link(licence) for _, licence in sources})
        or [licence_link(None)],
        "identifier": property_values({"root (sha256)": store.sha256}),
        "prov:wasDerivedFrom": [_source(*each) for each in sources.most_common()],
        "prov:wasGeneratedBy": {
            "@type": "prov:Activity",
            "prov:label": "making of a token store",
            "prov:used": {"@id": tokenizer},
            "prov:wasAssociatedWith": {"@type": "prov:SoftwareAgent", "prov:label": "fugaku_jax"},
        },
        "distribution": files,
        "recordSet": records,
    }
    if order is not None:
        found["prov:wasUsedBy"] = {
            "@type": "prov:Activity",
            "prov:label": "training of a language model",
            "additionalProperty": property_values(order),
        }
    return found


def write_croissant(store: Store, publication: Publication) -> str:
    """Write the metadata of a store into it, in place of older ones, and return its URL or path.

    Raises:
        InputError: the store is damaged, or cannot be written.
    """
    text = json.dumps(croissant(store, publication), ensure_ascii=False, indent=1)
    with storage_errors(store.url, "written"):
        open_location(store.url).write(CROISSANT_KEY, f"{text}\n".encode()).result()
    return f"{store.url.rstrip('/')}/{CROISSANT_KEY}"


def data_read(run_dir: Path, config: Config, store: Store, steps: int) -> dict[str, Any]:
    """Return the metadata of the store of a run, with the order in which so many steps read it.

    Raises:
        InputError: the store is damaged, or the run's ledger is.
    """
    order = run_identity(config, store)["order"] | {
        "steps": steps,
        "batches passed over, counted from 0": str(passed_over(run_dir)),
    }
    return croissant(store, Publication(f"data of {run_dir.resolve().name}"), order)


def _named_by(sha256: str) -> str:
    """Return the URI that names what has a hash (RFC 6920)."""
    digits = base64.urlsafe_b64encode(bytes.fromhex(sha256)).decode().rstrip("=")
    return f"ni:///sha-256;{digits}"


def _size(store: Store) -> str:
    sides = [getattr(each, split) for each in store.sets for split in SPLITS]
    documents, tokens = (sum(getattr(x, n) for x in sides) for n in ("documents", "tokens"))
    return f"documents: {documents:,}, tokens: {tokens:,}, sets: {len(store.sets)}"


def _sources(store: Store) -> Counter[tuple[str, str | None]]:
    """Return how many documents each source has by licence; the first thousand by name."""
    count: Counter[tuple[str, str | None]] = Counter()
    for index in range(len(store.sets)):
        for split in SPLITS:
            for table in store.documents(index, split).tables(["source", "licence"]):
                groups = table.group_by(["source", "licence"], use_threads=False)
                for each in groups.aggregate([([], "count_all")]).to_pylist():
                    key = each["source"], each["licence"]
                    if key not in count and len(count) >= _MOST_SOURCES:
                        key = _OTHERS, each["licence"]
                    count[key] += each["count_all"]
    return count


def _source(key: tuple[str, str | None], documents: int) -> dict[str, Any]:
    name, licence = key
    return {
        "@type": "prov:Entity",
        "prov:label": name,
        "license": licence_link(licence),
        "additionalProperty": property_values({"documents": documents}),
    }
