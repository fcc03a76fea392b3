"""Writes a token store so that its place always holds one whole version, the old or the new."""

import contextlib
import secrets
from collections.abc import Mapping

import tensorstore as ts

from fugaku_jax.data import store_format
from fugaku_jax.data.kvstore import local_path, open_location, storage_errors
from fugaku_jax.data.split_writer import EncodedDocument, SplitWriter
from fugaku_jax.data.store_format import Index, SplitName, TokenSet
from fugaku_jax.data.token_files import Place
from fugaku_jax.data.tokenizer import Tokenizer
from fugaku_jax.errors import InputError
from fugaku_jax.json_file import parse_json


class StoreWriter:
    """Writes a new version of a store under a fresh prefix, and publishes it at the end.

    A context manager: leaving it without `publish` (an error, Ctrl-C) deletes what was written and
    leaves the old version whole. One writer a store at a time.
    """

    def __init__(
        self,
        url: str,
        tokenizer: Tokenizer,
        end_of_document: int | None = None,
        row_tokens: int = 0,
    ) -> None:
        """Args: the folder or URL, the tokenizer of the tokens to come, and what ends documents.

        With `row_tokens` the tokens come with the marks of `marks.py`, packed into rows of as many.

        Raises:
            InputError: the place holds something that is no store, or cannot be reached.
        """
        self.url = url
        narrowest = store_format.token_dtype(tokenizer.vocab_size)
        self.dtype: store_format.TokenDtype = "uint32" if row_tokens else narrowest
        self._row_tokens = row_tokens
        self._tokenizer = tokenizer
        end = tokenizer.end_of_document if end_of_document is None else end_of_document
        self.end_of_document = end
        self._root = open_location(url)
        self._check_place()
        self._prefix = f"{store_format.PREFIX_START}{secrets.token_hex(8)}"
        self._sets: list[TokenSet] = []
        self._splits: list[SplitWriter] = []
        self._published = False

    def __enter__(self) -> "StoreWriter":
        """Starts the version."""
        return self

    def __exit__(self, *error: object) -> None:
        """Deletes what was written unless it was published."""
        if not self._published:
            # The first error is the one to tell. A write under way would outlive the deletion.
            for each in self._splits:
                with contextlib.suppress(Exception):
                    each.wait()
            with contextlib.suppress(Exception):
                self._delete(self._prefix)

    def add_set(self, name: str, places: Mapping[SplitName, Place] | None = None) -> "SetWriter":
        """Starts the next set; give it documents, then `finish` it.

        Args:
            name: of the set.
            places: where the tokens of each side lie and are left; None: they are written.
        """
        return SetWriter(self, name, len(self._sets), places or {})

    def publish(self) -> Index:
        """Makes the new version the one that readers see, and deletes the old one."""
        tokenizer = self._tokenizer
        self.put(store_format.tokenizer_key(self._prefix), tokenizer.model_bytes)
        index = Index(
            prefix=self._prefix,
            vocab_size=tokenizer.vocab_size,
            end_of_document=self.end_of_document,
            dtype=self.dtype,
            tokenizer_sha256=tokenizer.sha256,
            sets=tuple(self._sets),
            version=store_format.MARKED_VERSION if self._row_tokens else store_format.VERSION,
            row_tokens=self._row_tokens,
        )
        self.put(store_format.INDEX_KEY, index.to_json())
        self._published = True
        # What is still there is an older version, or the rest of a build that was killed.
        with contextlib.suppress(InputError), storage_errors(self.url, "listed"):
            self._root.write(store_format.CROISSANT_KEY, None).result()  # deletes it
            prefixes = {key.decode().partition("/")[0] for key in self._root.list().result()}
            for prefix in prefixes - {self._prefix, store_format.INDEX_KEY}:
                if prefix.startswith(store_format.PREFIX_START):
                    self._delete(prefix)
        return index

    def put(self, key: str, value: bytes) -> None:
        """Writes one key. Raises InputError when the place cannot take it (a full disk)."""
        with storage_errors(self.url, "written"):
            self._root.write(key, value).result()

    def split_writer(
        self, set_index: int, split: SplitName, place: Place | None = None
    ) -> SplitWriter:
        """Starts one side of a set."""
        where = self.url, self._root, self._prefix, set_index, split, self.dtype
        writer = SplitWriter(*where, place)
        self._splits.append(writer)
        return writer

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

    def __init__(
        self, store: StoreWriter, name: str, set_index: int, places: Mapping[SplitName, Place]
    ) -> None:
        """Use `StoreWriter.add_set`."""
        self._store = store
        self._name = name
        self._sides = {
            split: store.split_writer(set_index, split, places.get(split))
            for split in store_format.SPLITS
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
