"""Writes a token store so that its place always holds one whole version, the old or the new."""

import contextlib
import hashlib
import lzma
import secrets
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import tensorstore as ts
from jaxtyping import Integer

from fugaku_jax.data import store_format
from fugaku_jax.data.kvstore import local_path, open_location, storage_errors
from fugaku_jax.data.store_format import Index, Split, SplitName, TokenSet
from fugaku_jax.data.tokenizer import Tokenizer
from fugaku_jax.errors import InputError
from fugaku_jax.json_file import parse_json
from fugaku_jax.ledger import documents
from fugaku_jax.ledger.documents import DocumentRow

_Side: TypeAlias = tuple[int, SplitName]  # number of a set, and a side of its split


@dataclass(frozen=True)
class EncodedDocument:
    """A document ready to be stored."""

    row: DocumentRow
    tokens: Integer[np.ndarray, "T"]  # with the end-of-document token, in the store's data type
    text: bytes  # UTF-8


class StoreWriter:
    """Writes a new version of a store under a fresh prefix, and publishes it at the end.

    A context manager: leaving it without `publish` (an error, Ctrl-C) deletes what was written and
    leaves the old version whole. One writer a store at a time.
    """

    def __init__(self, url: str, tokenizer: Tokenizer) -> None:
        """Args: the folder or URL, and the tokenizer of the tokens to come.

        Raises:
            InputError: the place holds something that is no store, or cannot be reached.
        """
        self.url = url
        self.dtype = store_format.token_dtype(tokenizer.vocab_size)
        self._tokenizer = tokenizer
        self._root = open_location(url)
        self._check_place()
        self._prefix = f"{store_format.PREFIX_START}{secrets.token_hex(8)}"
        self._sets: list[TokenSet] = []
        self._writes: dict[_Side, ts.WriteFutures] = {}  # the last of each array
        self._published = False

    def __enter__(self) -> "StoreWriter":
        """Starts the version."""
        return self

    def __exit__(self, *error: object) -> None:
        """Deletes what was written unless it was published."""
        if not self._published:
            # The first error is the one to tell. A write under way would outlive the deletion.
            for write in self._writes.values():
                with contextlib.suppress(Exception):
                    write.result()
            with contextlib.suppress(Exception):
                self._delete(self._prefix)

    def add_set(self, name: str) -> "SetWriter":
        """Starts the next set; give it documents, then `finish` it."""
        return SetWriter(self, name, len(self._sets))

    def publish(self) -> Index:
        """Makes the new version the one that readers see, and deletes the old one."""
        tokenizer = self._tokenizer
        self.put(store_format.tokenizer_key(self._prefix), tokenizer.model_bytes)
        index = Index(
            prefix=self._prefix,
            vocab_size=tokenizer.vocab_size,
            end_of_document=tokenizer.end_of_document,
            dtype=self.dtype,
            tokenizer_sha256=tokenizer.sha256,
            sets=tuple(self._sets),
        )
        self.put(store_format.INDEX_KEY, index.to_json())
        self._published = True
        # What is still there is an older version, or the rest of a build that was killed.
        with contextlib.suppress(InputError), storage_errors(self.url, "listed"):
            prefixes = {key.decode().partition("/")[0] for key in self._root.list().result()}
            for prefix in prefixes - {self._prefix, store_format.INDEX_KEY}:
                if prefix.startswith(store_format.PREFIX_START):
                    self._delete(prefix)
        return index

    def put(self, key: str, value: bytes) -> None:
        """Writes one key. Raises InputError when the place cannot take it (a full disk)."""
        with storage_errors(self.url, "written"):
            self._root.write(key, value).result()

    def write(
        self, array: ts.TensorStore, tokens: Integer[np.ndarray, " N"], start: int, key: _Side
    ) -> None:
        """Starts to write tokens from `start` on, when the write before to this array is done."""
        self.wait(key)
        self._writes[key] = array[start : start + len(tokens)].write(tokens)

    def wait(self, key: _Side) -> None:
        """Waits for the last write to the array of a set's side, so that its errors are seen."""
        if key in self._writes:
            self._writes[key].result()

    def _finish_set(self, finished: TokenSet) -> None:
        self._sets.append(finished)

    def _check_place(self) -> None:
        place = local_path(self.url)
        with storage_errors(self.url, "listed"):
            if place is not None:  # only the top: a wrong folder may hold a million files
                names = [child.name for child in place.iterdir()] if place.exists() else []
            else:
                names = [key.decode(errors="replace") for key in self._root.list().result()]
            found = self._root.read(store_format.INDEX_KEY).result()
        foreign = sorted(name for name in names if not name.startswith(store_format.PREFIX_START))
        if found.state == "value":
            try:
                is_store = (
                    parse_json(found.value, store_format.INDEX_KEY).get("format")
                    == store_format.FORMAT
                )
            except InputError:
                is_store = False
            if is_store:
                return
        if foreign:
            raise InputError(
                f"--out {self.url}: holds files that are no token store ({foreign[0]}); "
                "give a new or an empty folder."
            )

    def _delete(self, prefix: str) -> None:
        end = prefix + "0"  # "0" is the character after "/"
        self._root.delete_range(ts.KvStore.KeyRange(f"{prefix}/", end)).result()
        place = local_path(self.url)
        if place is not None:  # empty folders are no keys, but a person sees them
            folders = sorted((place / prefix).rglob("*"), reverse=True)
            for folder in [*folders, place / prefix, place]:
                with contextlib.suppress(OSError):
                    folder.rmdir()


class SetWriter:
    """Writes one set: documents go to the end of one of its two splits."""

    def __init__(self, store: StoreWriter, name: str, set_index: int) -> None:
        """Use `StoreWriter.add_set`."""
        self._store = store
        self._name = name
        self._sides = {
            split: _SplitWriter(store, set_index, split) for split in store_format.SPLITS
        }

    def append(self, document: EncodedDocument, split: SplitName) -> None:
        """Adds a document. Raises InputError when the place is full."""
        self._sides[split].append(document)

    def finish(self, domain: str, weight: int | float | None) -> TokenSet:
        """Ends the set. A weight of None is the number of its training tokens."""
        train, validation = (self._sides[split].finish() for split in store_format.SPLITS)
        weight = train.tokens if weight is None else weight
        finished = TokenSet(self._name, domain, weight, train, validation)
        self._store._finish_set(finished)
        return finished


class _SplitWriter:
    def __init__(self, store: StoreWriter, set_index: int, split: SplitName) -> None:
        self._store, self._set_index = store, set_index
        self._split: SplitName = split
        self._array: ts.TensorStore | None = None
        self._written = 0
        self._pending: list[np.ndarray] = []  # tokens of the shard that is filling
        self._pending_tokens = 0
        self._rows: list[DocumentRow] = []
        self._sha256 = hashlib.sha256()
        self._xz = None
        self._xz_bytes = 0

    def append(self, document: EncodedDocument) -> None:
        self._rows.append(document.row)
        little_endian = document.tokens.dtype.newbyteorder("<")
        self._sha256.update(document.tokens.astype(little_endian, copy=False).data)
        if self._split == "validation":
            # The very setting of `xz -9e`. Made only when needed: it takes 0.7 GB of memory.
            self._xz = self._xz or lzma.LZMACompressor(preset=9 | lzma.PRESET_EXTREME)
            self._xz_bytes += len(self._xz.compress(document.text))
        self._pending.append(document.tokens)
        self._pending_tokens += len(document.tokens)
        if self._pending_tokens >= store_format.SHARD_TOKENS:
            tokens = np.concatenate(self._pending)
            whole = len(tokens) // store_format.SHARD_TOKENS * store_format.SHARD_TOKENS
            self._put(tokens[:whole])
            self._pending = [tokens[whole:].copy()]
            self._pending_tokens = len(tokens) - whole

    def finish(self) -> Split:
        if self._pending_tokens:
            self._put(np.concatenate(self._pending))
        if self._array is not None:
            with storage_errors(self._store.url, "written"):
                self._store.wait((self._set_index, self._split))
                self._array.resize(
                    exclusive_max=[self._written], resize_metadata_only=True
                ).result()
        table = documents.make_table(self._rows)
        key = store_format.documents_key(self._store._prefix, self._set_index, self._split)
        self._store.put(key, documents.to_parquet(table))
        held_out = self._split == "validation"
        if self._xz is not None:
            self._xz_bytes += len(self._xz.flush())
        return Split(
            tokens=self._written,
            documents=len(self._rows),
            bytes=sum(row.bytes for row in self._rows),
            xz_bytes=self._xz_bytes if held_out else None,
            tokens_sha256=self._sha256.hexdigest(),
            documents_sha256=documents.digest(table),
        )

    def _put(self, tokens: np.ndarray) -> None:
        with storage_errors(self._store.url, "written"):
            if self._array is None:
                self._array = store_format.create_array(
                    self._store._root,
                    self._store._prefix,
                    self._set_index,
                    self._split,
                    self._store.dtype,
                ).result()
            key = self._set_index, self._split
            self._store.write(self._array, tokens, self._written, key)
        self._written += len(tokens)
