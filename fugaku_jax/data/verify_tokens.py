"""Whether the tokens of a split are those that were written, a file at a time."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby

import numpy as np
import tensorstore as ts
from jaxtyping import Integer

from fugaku_jax.data import store_format
from fugaku_jax.data.blocks import Blocks, joined_root
from fugaku_jax.data.document_table import DocumentTable
from fugaku_jax.data.in_place import TokensInPlace
from fugaku_jax.data.kvstore import read_value, storage_errors
from fugaku_jax.data.raw_tokens import RawTokens
from fugaku_jax.data.split_writer import chunk_hashes
from fugaku_jax.data.store import check_array
from fugaku_jax.data.store_format import Index, Split, SplitName
from fugaku_jax.data.tokenizer import Tokenizer
from fugaku_jax.data.verify_documents import Found
from fugaku_jax.errors import InputError
from fugaku_jax.ledger import merkle


def verify_tokens(
    url: str,
    root: ts.KvStore,
    index: Index,
    set_index: int,
    split: SplitName,
    tokenizer: Tokenizer | None,
    progress: Callable[[str, int, int], None],
) -> Found:
    """Yields what of a split's tokens, and of what says how they lie, was altered.

    Args:
        url: of the store, for sentences.
        root: of the store.
        index: of the store.
        set_index: which set.
        split: which side.
        tokenizer: tells by a document's sha256 whether the damage is in it; without one, all
            documents in a damaged chunk are named.
        progress: told how many tokens have been read.
    """
    side: Split = getattr(index.sets[set_index], split)
    if not side.tokens:
        return
    place = index.prefix, set_index, split
    try:
        if side.place:
            array = TokensInPlace(url, root, index, set_index, split)
        else:
            with storage_errors(url, "read"):
                opening = store_format.open_array(root, index, set_index, split, cached=False)
                array = opening.result()
            check_array(array, url, index, set_index, split)
    except InputError as error:
        yield str(error), ()
        return
    table = DocumentTable(url, root, index, set_index, split, checked=False)
    raw = RawTokens(root, *place, index.dtype, side.place, index.row_tokens > 0)
    blocks = None if index.version == 1 else _blocks(url, root, place, side)
    if blocks and not side.place:
        metadata = read_value(url, root, store_format.array_key(*place))
        if hashlib.sha256(metadata).hexdigest() != blocks.array_sha256:
            yield f"{store_format.array_key(*place)} is not as it was written", ()
    running, roots, hashes, written, altered = hashlib.sha256(), [], [], None, False
    for first in range(0, side.tokens, store_format.SHARD_TOKENS):
        parts = _read(array, first, min(first + store_format.SHARD_TOKENS, side.tokens))
        if index.version == 1:
            for part in parts:
                running.update(b"" if part is None else part.tobytes())
        begin = len(hashes)
        hashes += [b"" if part is None else chunk_hashes(part)[0] for part in parts]
        if blocks and not begin:
            written = _written_hashes(url, root, place, blocks, len(roots))
            if written is None:
                yield f"{store_format.chunks_key(*place, len(roots))} is not as it was written", ()
        bad = [
            chunk
            for chunk, part in enumerate(parts)
            if part is None or (written and hashes[begin + chunk] != written[begin + chunk])
        ]
        for chunks in _runs(bad):
            altered = True
            one = first + chunks[0] * store_format.CHUNK_TOKENS
            last = min(first + (chunks[-1] + 1) * store_format.CHUNK_TOKENS, side.tokens) - 1
            what = f"tokens {one:,} to {last:,} are not as they were written"
            yield what, _documents_in(table, raw, tokenizer, one, last)
        if len(hashes) >= store_format.BLOCK_CHUNKS:
            roots.append(merkle.root(hashes).hex())
            hashes = []
        progress("tokens", min(first + store_format.SHARD_TOKENS, side.tokens), side.tokens)
    if hashes:
        roots.append(merkle.root(hashes).hex())
    reached = running.hexdigest() if index.version == 1 else joined_root(roots)
    if not altered and reached != side.tokens_root:
        yield "the tokens do not lead to the root", ()


def _blocks(
    url: str, root: ts.KvStore, place: tuple[str, int, SplitName], side: Split
) -> Blocks | None:
    """What says where the files begin; None if it is damaged, which those of documents tell."""
    try:
        return Blocks.from_json(read_value(url, root, store_format.blocks_key(*place)), side)
    except ValueError:
        return None


def _written_hashes(
    url: str, root: ts.KvStore, place: tuple[str, int, SplitName], blocks: Blocks, block: int
) -> list[bytes] | None:
    """The hashes of the chunks of a block as they were written; None if they are damaged."""
    try:
        data = read_value(url, root, store_format.chunks_key(*place, block))
    except InputError:
        return None
    hashes = [data[i : i + 32] for i in range(0, len(data), 32)]
    return hashes if merkle.root(hashes).hex() == blocks.tokens[block] else None


def _read(
    array: ts.TensorStore | TokensInPlace, first: int, end: int
) -> list[Integer[np.ndarray, " C"] | None]:
    """The chunks of tokens `[first, end)`, None for one that cannot be read."""
    size = store_format.CHUNK_TOKENS
    tokens = _read_whole(array, first, end)
    if tokens is not None:
        return [tokens[start : start + size] for start in range(0, end - first, size)]
    return [_read_whole(array, start, min(start + size, end)) for start in range(first, end, size)]


def _read_whole(
    array: ts.TensorStore | TokensInPlace, first: int, end: int
) -> Integer[np.ndarray, " N"] | None:
    try:
        if isinstance(array, TokensInPlace):
            return array.read(first, end)
        return array[first:end].read().result()
    except (ValueError, OSError, RuntimeError):
        return None


def _runs(numbers: Sequence[int]) -> Iterator[list[int]]:
    """Numbers that follow one another, together."""
    for _, run in groupby(enumerate(numbers), lambda pair: pair[1] - pair[0]):
        yield [number for _, number in run]


def _documents_in(
    table: DocumentTable, raw: RawTokens, tokenizer: Tokenizer | None, first: int, last: int
) -> tuple[str, ...]:
    """The ids of the documents of a damaged chunk that do not spell their text any more.

    Those of all that are in it if each of them does, or if that cannot be told.
    """
    try:
        rows = table.spanning(first, last).to_pylist()
    except ValueError:  # the table cannot be read
        return ()
    if tokenizer is None:
        return tuple(row["id"] for row in rows)
    hit = []
    for row in rows:
        tokens = raw.read(row["start"], row["length"])
        try:
            text = b"" if tokens is None else tokenizer.decode(tokens[:-1]).encode()
        except InputError:  # a token that the tokenizer does not have
            text = b""
        if hashlib.sha256(text).hexdigest() != row["sha256"]:
            hit.append(row["id"])
    return tuple(hit or [row["id"] for row in rows])
