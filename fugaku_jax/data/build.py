"""From input files to a token store: read, encode on all cores, split, write.

SentencePiece releases the interpreter's lock while it encodes, so the workers are threads: they
share one model and hand over NumPy arrays without copying them between processes. A document is
always encoded whole, as encoding it in parts would change the tokens at the joins.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Literal

import numpy as np

from fugaku_jax.data import tokenizer as tokenizers
from fugaku_jax.data.corpus import BadLine, Document, LineBlock, parse_block, read_blocks
from fugaku_jax.data.held_out import ByHash, FromTheEnd
from fugaku_jax.data.inputs import InputSet
from fugaku_jax.data.numbers import number_tokenizer
from fugaku_jax.data.ordered_map import map_in_order
from fugaku_jax.data.split_writer import EncodedDocument
from fugaku_jax.data.store_format import token_dtype
from fugaku_jax.data.token_blocks import (
    TokenBlock,
    encode_tokens,
    is_tokens,
    places_of,
    read_token_blocks,
)
from fugaku_jax.data.tokenizer import Tokenizer
from fugaku_jax.data.writer import StoreWriter
from fugaku_jax.errors import InputError
from fugaku_jax.ledger.documents import DocumentRow
from fugaku_jax.processor import available_cores

_TRAINING_BYTES = 16 << 20  # of text a tokenizer is trained on; more makes it little better
_MOST_LISTED = 1000  # lines that are left out; the others are only counted
_BLOCKS_A_WORKER = 4  # in flight: enough that none waits, few enough to bound the memory

OnBadLine = Literal["stop", "skip"]
Block = LineBlock | TokenBlock | BadLine
Progress = Callable[[Path, int], None]  # the file being read, and its bytes read so far


@dataclass
class BuildReport:
    """What a build did that the store itself does not say."""

    bad_line_count: int = 0
    bad_lines: list[str] = field(default_factory=list)  # a sentence each of the first thousand
    damaged_files: list[str] = field(default_factory=list)  # likewise; their ends are left out


def choose_tokenizer(
    choice: str,
    sets: Sequence[InputSet],
    on_bad_line: OnBadLine,
    end_of_document: int | None = None,
) -> Tokenizer:
    """The tokenizer that `MODEL` (a file), `train:VOCAB` or `numbers:VOCAB` stands for.

    Training reads the first documents of every set, 16 MB of text in all, by the sets' weights.
    Numbers are for tokens that are no text, of which `end_of_document` ends documents.

    Raises:
        InputError: the file is no model, or a tokenizer of that size cannot be trained.
    """
    way, _, wanted = choice.partition(":")
    if way not in ("train", "numbers") or not choice[len(way) :]:
        return Tokenizer.from_file(choice)
    if not (wanted.isdecimal() and wanted.isascii() and len(wanted) < 10) or int(wanted) < 1:
        raise InputError(f"--tokenizer {choice}: VOCAB must be a whole number, as in {way}:8192.")
    if way == "numbers":
        if end_of_document is None:
            raise InputError(f"--tokenizer {choice}: needs --end-of-document, a token's number.")
        return number_tokenizer(int(wanted), end_of_document)
    tokens = [str(path) for each in sets for path in each.paths if is_tokens(path)]
    if tokens:
        raise InputError(
            f"--tokenizer {choice}: cannot be trained on tokens ({tokens[0]}); give the model that "
            "they were made with."
        )
    weights = [1.0 if each.weight is None else each.weight for each in sets]
    texts = chain.from_iterable(
        _first_texts(each, int(_TRAINING_BYTES * weight / sum(weights)), on_bad_line)
        for each, weight in zip(sets, weights, strict=True)
    )
    return tokenizers.train(texts, int(wanted))


def build_store(
    out: str,
    sets: Sequence[InputSet],
    tokenizer: Tokenizer,
    validation: int | float = 0.01,
    workers: int | None = None,
    on_bad_line: OnBadLine = "stop",
    progress: Progress | None = None,
    *,
    end_of_document: int | None = None,
    in_place: bool = False,
) -> BuildReport:
    """Builds a token store. The same inputs give the same store whatever the number of workers.

    Args:
        out: folder or URL; an older store there is replaced when the new one is whole.
        sets: what to build from.
        tokenizer: encodes the texts; its end-of-document token follows every document.
        validation: fraction of the documents to hold out, from 0 to below 1.
        workers: threads that encode; None is one a core.
        on_bad_line: "stop" at a line that is no document and where a file is damaged, or "skip"
            the line, or what lies behind it in the file, and list it.
        progress: told now and then how far the reading is.
        end_of_document: the token that ends documents; None is the tokenizer's own.
        in_place: leave the tokens of token files where they are; the last documents of each are
            held out then.

    Raises:
        InputError: an input is wrong or absent, a set is empty, or `out` cannot be written.
    """
    if not 0 <= validation < 1:
        raise InputError(f"--validation: must be from 0 to below 1, got {validation}.")
    workers = len(available_cores()) if workers is None else workers
    if workers < 1:
        raise InputError(f"--workers: must be at least 1, got {workers}.")
    end = tokenizer.end_of_document if end_of_document is None else end_of_document
    if not 0 <= end < tokenizer.vocab_size:
        raise InputError(
            f"--end-of-document: must be a token, from 0 to {tokenizer.vocab_size - 1}, got {end}."
        )
    kept = [in_place and any(map(is_tokens, each.paths)) for each in sets]
    if in_place and not any(kept):
        raise InputError("--in-place: no input is a file of tokens (.idx or .npy).")
    places = [
        places_of(each, validation, end) if here else None
        for each, here in zip(sets, kept, strict=True)
    ]
    report = BuildReport()
    with StoreWriter(out, tokenizer, end) as writer, ThreadPoolExecutor(workers) as pool:
        try:
            for each, its_places in zip(sets, places, strict=True):
                blocks = _blocks(each, end, progress)

                def encode(block: Block, each: InputSet = each) -> list[EncodedDocument | BadLine]:
                    return _encode(block, each, tokenizer, end)

                results = map_in_order(pool, encode, blocks, workers * _BLOCKS_A_WORKER)
                set_writer = writer.add_set(each.name, its_places)
                if its_places:
                    splitter, on_bad = FromTheEnd(set_writer, its_places), "stop"
                else:
                    splitter, on_bad = ByHash(set_writer, validation), on_bad_line
                _write_documents(splitter, each, results, on_bad, report)
                set_writer.finish(each.domain, each.weight)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
        writer.publish()
    return report


def _blocks(each: InputSet, end: int, progress: Progress | None) -> Iterator[Block]:
    for path in each.paths:
        blocks = read_token_blocks(path, end) if is_tokens(path) else read_blocks(path)
        for block in blocks:
            if progress is not None and not isinstance(block, BadLine):
                progress(path, block.position)
            yield block


def _encode(
    block: Block, each: InputSet, tokenizer: Tokenizer, end_of_document: int
) -> list[EncodedDocument | BadLine]:
    if isinstance(block, BadLine):
        return [block]
    if isinstance(block, TokenBlock):
        return encode_tokens(block, each, tokenizer, end_of_document)
    parsed = parse_block(block)
    documents = [each for each in parsed if isinstance(each, Document)]
    texts = [document.text.encode() for document in documents]
    end = np.array([end_of_document], np.int32)
    ids = [part for each in tokenizer.encode_arrays(texts) for part in (each, end)]
    dtype = np.dtype(token_dtype(tokenizer.vocab_size))
    tokens = np.concatenate([np.empty(0, np.int32), *ids]).astype(dtype)
    encoded, begin = [], 0
    for document, text, its_ids in zip(documents, texts, ids[::2], strict=True):
        length = len(its_ids) + 1
        row = _row(document, each, block.path, text, length)
        encoded.append(EncodedDocument(row, tokens[begin : begin + length], text))
        begin += length
    in_order = iter(encoded)
    return [each if isinstance(each, BadLine) else next(in_order) for each in parsed]


def _row(document: Document, each: InputSet, path: Path, text: bytes, length: int) -> DocumentRow:
    return DocumentRow(
        document.id,
        document.source or each.source or path.name,
        document.licence or each.licence,
        hashlib.sha256(text).hexdigest(),
        length,
        len(text),
        document.decisions,
    )


def _write_documents(
    splitter: ByHash | FromTheEnd,
    each: InputSet,
    results: Iterable[list[EncodedDocument | BadLine]],
    on_bad_line: OnBadLine,
    report: BuildReport,
) -> None:
    documents = 0
    for document in chain.from_iterable(results):
        if isinstance(document, BadLine):
            _report_bad_line(document, on_bad_line, report)
            continue
        documents += 1
        splitter.append(document)
    if not documents:
        files = ", ".join(map(str, each.paths))
        raise InputError(f"set {each.name}: holds no document ({files}); give files with text.")
    splitter.finish()


def _report_bad_line(line: BadLine, on_bad_line: OnBadLine, report: BuildReport) -> None:
    if on_bad_line == "stop":
        what = "the rest of such files" if line.ends_file else "such lines"
        raise InputError(f"{line.sentence.rstrip('.')}; `--on-bad-line skip` leaves {what} out.")
    if line.ends_file:
        report.damaged_files.append(line.sentence)
        return
    report.bad_line_count += 1
    if report.bad_line_count <= _MOST_LISTED:
        report.bad_lines.append(line.sentence)


def _first_texts(each: InputSet, limit: int, on_bad_line: OnBadLine) -> Iterator[str]:
    size = 0
    for block in chain.from_iterable(map(read_blocks, each.paths)):
        for document in [block] if isinstance(block, BadLine) else parse_block(block):
            if isinstance(document, BadLine):
                _report_bad_line(document, on_bad_line, BuildReport())
                continue
            if size >= limit:
                return
            yield document.text
            size += len(document.text.encode())
