"""Documents of token files, as a store takes them: tokens as they are, texts as they spell them."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int64, Integer

from fugaku_jax.data.corpus import BadLine
from fugaku_jax.data.inputs import InputSet
from fugaku_jax.data.split_writer import EncodedDocument
from fugaku_jax.data.store_format import SplitName, token_dtype
from fugaku_jax.data.token_files import ENDINGS, Place, TokenFile
from fugaku_jax.data.tokenizer import Tokenizer
from fugaku_jax.errors import InputError
from fugaku_jax.ledger.documents import DocumentRow

_BLOCK_TOKENS = 1 << 16  # enough work for a thread, little enough to balance


@dataclass(frozen=True)
class TokenBlock:
    """Documents of a token file that follow one another."""

    path: Path
    first: int  # number of its first document, counted from 1
    bounds: Int64[np.ndarray, " D_plus_1"]  # where they begin, and where the last ends
    tokens: Integer[np.ndarray, " N"]  # of all of them
    position: int  # bytes of the given file that are done, in proportion


def is_tokens(path: Path) -> bool:
    """Tell whether a file holds tokens, by its ending."""
    return path.name.lower().endswith(ENDINGS)


def read_token_blocks(path: Path, end_of_document: int) -> Iterator[TokenBlock]:
    """The documents of a file in order.

    Raises:
        InputError: as `TokenFile`.
    """
    file, size, number = TokenFile.open(path), path.stat().st_size, 1
    for bounds in file.bounds(end_of_document):
        begin = 0
        while begin < len(bounds) - 1:
            # At least one document, however long.
            end = int(np.searchsorted(bounds, bounds[begin] + _BLOCK_TOKENS, "right")) - 1
            part = bounds[begin : max(end, begin + 1) + 1]
            tokens = file.place.read(int(part[0]), int(part[-1] - part[0]))
            yield TokenBlock(path, number, part, tokens, size * int(part[-1]) // file.count)
            number, begin = number + len(part) - 1, begin + len(part) - 1


def encode_tokens(
    block: TokenBlock, each: InputSet, tokenizer: Tokenizer, end_of_document: int
) -> list[EncodedDocument | BadLine]:
    """Each document with the text that its tokens spell, or why it is none."""
    found: list[EncodedDocument | BadLine] = []
    dtype = np.dtype(token_dtype(tokenizer.vocab_size))
    starts = (block.bounds - block.bounds[0]).tolist()
    for place in range(len(starts) - 1):
        tokens = block.tokens[starts[place] : starts[place + 1]]
        name = f"{block.path.name}:{block.first + place}"
        wrong = _wrong(tokens, tokenizer.vocab_size, end_of_document)
        if wrong:
            found.append(BadLine(f"{block.path}: document {block.first + place} {wrong}."))
            continue
        text = tokenizer.decode(tokens[:-1]).encode()
        source, sha256 = each.source or block.path.name, hashlib.sha256(text).hexdigest()
        row = DocumentRow(name, source, each.licence, sha256, len(tokens), len(text))
        found.append(EncodedDocument(row, tokens.astype(dtype), text))
    return found


def _wrong(tokens: Integer[np.ndarray, " T"], vocab_size: int, end_of_document: int) -> str:
    least, most, last = int(tokens.min()), int(tokens.max()), int(tokens[-1])
    if not 0 <= least <= most < vocab_size:
        token = least if least < 0 else most
        return f"holds token {token}, but the tokenizer has those from 0 to {vocab_size - 1}"
    if last != end_of_document:
        return (
            f"ends with token {last}, not with {end_of_document}, which ends documents; "
            "`--end-of-document` says another"
        )
    return ""


def places_of(
    each: InputSet, validation: int | float, end_of_document: int
) -> dict[SplitName, Place]:
    """Where the tokens of each side lie if they stay where they are.

    The last documents are held out: those that begin in the last part of the tokens, or else the
    last one, if there are two.

    Raises:
        InputError: the set is not one file of tokens, or as `TokenFile`.
    """
    if len(each.paths) != 1:
        raise InputError(
            f"set {each.name}: of several files; with --in-place give each file of tokens a set."
        )
    file = TokenFile.open(each.paths[0])
    threshold, last, cut = file.count * (1 - validation), 0, None
    for bounds in file.bounds(end_of_document):
        last = int(bounds[-2])
        if cut is None and validation and bounds[-2] >= threshold:
            cut = int(bounds[np.searchsorted(bounds, threshold)])
    if cut is None:
        cut = last if validation and last else file.count
    place = file.place
    held_out = Place(place.path, place.dtype, place.offset + cut * place.item_bytes)
    return {"train": place, "validation": held_out}
