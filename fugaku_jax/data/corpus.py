"""Reads documents from JSONL (plain, gzip, zstd, xz), Parquet and plain text files.

Reading has two halves. `read_blocks` runs in one thread and only moves and decompresses bytes;
`parse_block` does the costly part (JSON, UTF-8, checks) and may run in many threads at once.
"""

import codecs
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from fugaku_jax.data import token_files
from fugaku_jax.data.lines import parse_line, read_lines
from fugaku_jax.errors import InputError

TEXT_ENDINGS = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".jsonl.xz", ".parquet", ".txt")
ENDINGS = (*TEXT_ENDINGS, *token_files.ENDINGS)
_BLOCK_BYTES = 1 << 18  # of text a block: enough work for a thread, little enough to balance
_OTHER_COLUMNS = ("id", "source", "licence", "license", "decisions")
_STRINGS = (pa.string(), pa.large_string(), pa.string_view())


@dataclass(slots=True)
class Document:
    """One document as its file gives it."""

    text: str
    id: str
    source: str | None
    licence: str | None
    decisions: str | None = None  # what filters decided of it


@dataclass(frozen=True)
class BadLine:
    """A line that is no document: one sentence that names the file and the line."""

    sentence: str
    ends_file: bool = False  # the file is damaged here, and nothing behind it can be read


@dataclass(frozen=True)
class LineBlock:
    """Lines of a file, not yet parsed. A plain-text file and a row of Parquet are one line."""

    path: Path
    first_line: int  # counted from 1
    lines: list[bytes] | list[Mapping[str, Any]]  # JSON, or rows of a Parquet file
    position: int  # bytes of the file read so far, as stored (compressed)
    text: str = "text"  # the field that holds the text


def check_input(path: Path) -> None:
    """Raises InputError unless `path` is a readable file with one of `ENDINGS`."""
    if not os.path.exists(path):  # false also of names that no file can have
        raise InputError(f"input {path!s:.500}: there is no such file.")
    if not path.is_file():
        raise InputError(f"input {path}: this is no file; give files, or `DIRECTORY/*.jsonl.gz`.")
    if not os.access(path, os.R_OK):
        raise InputError(f"input {path}: cannot be read: permission denied.")
    if not path.name.lower().endswith(ENDINGS):
        raise InputError(
            f"input {path}: the ending says no known format; use one of {' '.join(ENDINGS)}."
        )


def read_blocks(path: Path, text: str = "text") -> Iterator[LineBlock | BadLine]:
    """The blocks of a file in order; a BadLine ends it where the file itself is damaged.

    Args:
        path: a file.
        text: the field or column that holds the text, unless the file is plain text.

    Raises:
        InputError: the file does not exist, has an unknown ending, or gives nothing at all.
    """
    check_input(path)
    name = path.name.lower()
    if name.endswith(".parquet"):
        return _parquet_blocks(path, text)
    if name.endswith(".txt"):
        return _text_block(path)
    return _json_blocks(path, text)


def parse_block(block: LineBlock) -> list[Document | BadLine]:
    """The documents of a block in order, and a BadLine for each line that is none."""
    is_text = block.path.name.lower().endswith(".txt")
    parsed: list[Document | BadLine] = []
    for number, line in enumerate(block.lines, block.first_line):
        if isinstance(line, bytes) and not line.strip() and not is_text:
            continue  # an empty line at the end of a file is usual
        try:
            if is_text:
                fields: Any = {block.text: line}
            else:
                fields = parse_line(line) if isinstance(line, bytes) else line
            parsed.append(_document(fields, block, number))
        except ValueError as error:
            parsed.append(BadLine(f"{block.path}:{number}: {_reason(error)}."))
    return parsed


def _document(fields: Any, block: LineBlock, number: int) -> Document:
    name = block.text
    if not isinstance(fields, Mapping):
        raise ValueError(f"must be a JSON object with `{name}`, got {_kind(fields)}")
    if name not in fields:
        there = ", ".join(map(str, fields)) or "none"
        raise ValueError(f"has no `{name}`; its fields are {there}")
    text = _string(name, fields[name])
    if not text:
        raise ValueError(f"`{name}` is empty")
    identity = fields.get("id")
    if identity is None or type(identity) is int:
        identity = f"{block.path.name}:{number}" if identity is None else str(identity)
    licence = fields.get("licence", fields.get("license"))
    return Document(
        text,
        _string("id", identity),
        _string_or_none("source", fields.get("source")),
        _string_or_none("licence", licence),
        _string_or_none("decisions", fields.get("decisions")),
    )


def _string_or_none(name: str, value: Any) -> str | None:
    return None if value is None else _string(name, value)


def _string(name: str, value: Any) -> str:
    """A field as a string. Bytes are UTF-8, whether or not their column of Parquet says so."""
    if isinstance(value, bytes):
        return value.decode()
    if not isinstance(value, str):
        raise ValueError(f"`{name}` must be a string, got {_kind(value)}")
    value.encode()  # a lone surrogate, which JSON can write, raises here
    return value


def _kind(value: Any) -> str:
    kinds = {dict: "an object", list: "an array", bool: "a boolean", int: "a number"}
    kinds |= {float: "a number", type(None): "null"}
    return kinds.get(type(value), f"a value of type {type(value).__name__}")


def _reason(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"not valid UTF-8: byte 0x{error.object[error.start]:02x} at byte {error.start + 1}"
    if isinstance(error, UnicodeEncodeError):
        return f"holds the lone surrogate U+{ord(error.object[error.start]):04X}, which is no text"
    return str(error)


def _text_block(path: Path) -> Iterator[LineBlock]:
    data = path.read_bytes()
    yield LineBlock(path, 1, [data.removeprefix(codecs.BOM_UTF8)], len(data))


def _json_blocks(path: Path, text: str) -> Iterator[LineBlock | BadLine]:
    with path.open("rb") as file:
        number, lines, held = 1, [], 0
        try:
            for line in read_lines(file, path.name):
                lines.append(line)
                held += len(line)
                if held >= _BLOCK_BYTES:
                    yield LineBlock(path, number, lines, file.tell(), text)
                    number, lines, held = number + len(lines), [], 0
        except OSError as error:
            if lines:
                yield LineBlock(path, number, lines, file.tell(), text)
            yield _damage(path, number + len(lines), error)
        else:
            yield LineBlock(path, number, lines, file.tell(), text)


def _damage(path: Path, number: int, error: Exception) -> BadLine:
    """Where a file is damaged. Raises InputError if that is where it begins."""
    reason = " ".join(str(error).split()).rstrip(".") or "it is cut short"
    if number == 1:
        raise InputError(f"input {path}: cannot be read: {reason}.") from error
    return BadLine(f"{path}:{number}: cannot be read from here on: {reason}.", ends_file=True)


def _parquet_blocks(path: Path, text: str) -> Iterator[LineBlock | BadLine]:
    number, size = 1, path.stat().st_size
    try:
        with pq.ParquetFile(path) as file:
            wanted = (text, *_OTHER_COLUMNS)
            names = [name for name in file.schema_arrow.names if name in wanted]
            if text not in names:
                there = ", ".join(file.schema_arrow.names)
                raise InputError(f"input {path}: has no column `{text}`; its columns are {there}.")
            total = max(file.metadata.num_rows, 1)
            for batch in file.iter_batches(batch_size=256, columns=names):
                place = size * (number - 1) // total
                yield LineBlock(path, number, _rows(batch), place, text)
                number += batch.num_rows
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:  # the last of a column's name
        yield _damage(path, number, error)


def _rows(batch: pa.RecordBatch) -> list[Mapping[str, Any]]:
    """Rows with strings as bytes, so that only what is no UTF-8 fails when it is parsed."""
    columns = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        if column.type in _STRINGS:
            column = column.cast(pa.large_binary())
        columns[name] = column
    return pa.table(columns).to_pylist()
