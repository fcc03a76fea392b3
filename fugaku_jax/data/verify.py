"""Holds a store to its root: reads all of it, a part at a time, and names what was altered."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from fugaku_jax.data import store_format
from fugaku_jax.data.kvstore import open_location, read_value
from fugaku_jax.data.store_format import Index, SplitName
from fugaku_jax.data.tokenizer import Tokenizer
from fugaku_jax.data.verify_documents import verify_documents
from fugaku_jax.data.verify_tokens import verify_tokens
from fugaku_jax.errors import InputError
from fugaku_jax.json_file import parse_json

_NAMED = 5  # documents that a sentence names; the rest is counted


@dataclass(frozen=True)
class Damage:
    """Something in a store that is not as it was written."""

    part: str
    """index, root, tokenizer, blocks, documents or tokens."""
    set: str | None
    split: SplitName | None
    what: str
    documents: tuple[str, ...] = ()
    """Ids of the documents it is in or, if that cannot be told, that it may be in."""

    def __str__(self) -> str:
        side = f" of set {self.set} {self.split}" if self.set is not None else ""
        named = ", ".join(self.documents[:_NAMED])
        more = len(self.documents) - _NAMED
        rest = f" and {more:,} more" if more > 0 else ""
        documents = f"; documents {named}{rest}" if named else ""
        return f"{self.part}{side}: {self.what}{documents}"


Progress = Callable[[str, int, int], None]  # what is read, how much of it, and how much it is


def read_index(url: str) -> tuple[bytes, dict]:
    """The bytes of `store.json`, and what it says if it is JSON at all.

    Raises:
        InputError: there is no store, or it is of a format that this program does not know.
    """
    root = open_location(url)
    try:
        data = read_value(url, root, store_format.INDEX_KEY)
    except InputError as error:
        raise InputError(
            f"store {url}: there is no token store here; give the folder or URL of one, or a run."
        ) from error
    try:
        fields = parse_json(data, store_format.INDEX_KEY)
    except InputError:
        return data, {}
    version = fields.get("version")
    if type(version) is int and version > store_format.MARKED_VERSION:
        Index.from_json(data, url)  # says so
    return data, fields


def verify_store(
    url: str, expected_root: str | None = None, progress: Progress | None = None
) -> Iterator[Damage]:
    """Yields what of a store was altered; nothing if every byte of it is as it was written.

    Memory is bounded by a file of tokens and one of documents.

    Args:
        url: folder or URL.
        expected_root: the root (hex) that it should have; that in `store.json` if None.
        progress: told now and then how far it is.

    Raises:
        InputError: there is no store, or it is of a format that this program does not know.
    """
    data, _ = read_index(url)
    try:
        index = Index.from_json(data, url)
    except InputError as error:
        yield Damage("index", None, None, str(error))
        return
    if data != index.to_json():
        yield Damage("index", None, None, f"{store_format.INDEX_KEY} is not as it was written")
    if expected_root is not None and index.sha256 != expected_root:
        yield Damage("root", None, None, f"it is {index.sha256}, not {expected_root}")
    root, tokenizer = open_location(url), None
    try:
        key = store_format.tokenizer_key(index.prefix)
        model = read_value(url, root, key)
        if hashlib.sha256(model).hexdigest() != index.tokenizer_sha256:
            raise InputError(f"store {url}: {key} is not as it was written.")
        tokenizer = Tokenizer(model)
    except InputError as error:
        yield Damage("tokenizer", None, None, str(error))
    for number, each in enumerate(index.sets):
        for split in store_format.SPLITS:

            def told(part: str, done: int, total: int, name: str = f"{each.name} {split}") -> None:
                if progress is not None:
                    progress(f"{name} {part}", done, total)

            where = url, root, index, number, split
            for part, found in (
                ("documents", verify_documents(*where, told)),
                ("tokens", verify_tokens(*where, tokenizer, told)),
            ):
                yield from _damages(part, each.name, split, found)


def _damages(
    part: str, name: str, split: SplitName, found: Iterable[tuple[str, tuple[str, ...]]]
) -> Iterator[Damage]:
    for what, documents in found:
        yield Damage(part, name, split, what, documents)
