"""Reads documents from JSONL, JSONL.gz, JSONL.zst, Parquet and plain text files.

Reading has two halves. `read_blocks` runs in one thread and only moves and decompresses bytes;
`parse_block` does the costly part (JSON, UTF-8, checks) and may run in many threads at once.
"""

import gzip
import json
import os
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from fugaku_jax.errors import InputError

ENDINGS = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet", ".txt")
_BLOCK_BYTES = 1 << 18  # of text a block: enough work for a thread, little enough to balance
_READ_BYTES = 1 << 20
_COLUMNS = ("text", "id", "source", "licence", "license")


@dataclass(frozen=True)
class Document:
    """One document as its file gives it."""

    text: str
    id: str
    source: str | None
    licence: str | None


@dataclass(frozen=True)
class BadLine:
    """A line that is no document: one sentence that names the file and the line."""

    sentence: str


@dataclass(frozen=True)
class Block:
    """Lines of a file, not yet parsed. A plain-text file and a row of Parquet are one line."""

    path: Path
    first_line: int  # counted from 1
    lines: list[bytes] | list[Mapping[str, Any]]  # JSON, or rows of a Parquet file
    position: int  # bytes of the file read so far, as stored (compressed)


def check_input(path: Path) -> None:
    """Raises InputError unless `path` is a readable file with one of `ENDINGS`."""
    if not path.exists():
        raise InputError(f"input {path}: there is no such file.")
    if not path.is_file():
        raise InputError(f"input {path}: this is no file; give files, or `DIRECTORY/*.jsonl.gz`.")
    if not os.access(path, os.R_OK):
        raise InputError(f"input {path}: cannot be read: permission denied.")
    if not path.name.lower().endswith(ENDINGS):
        raise InputError(
            f"input {path}: the ending says no known format; use one of {' '.join(ENDINGS)}."
        )


def read_blocks(path: Path) -> Iterator[Block | BadLine]:
    """The blocks of a file in order; a BadLine ends it where the file itself is corrupt.

    Raises:
        InputError: the file does not exist, cannot be opened, or has an unknown ending.
    """
    check_input(path)
    name = path.name.lower()
    if name.endswith(".parquet"):
        return _parquet_blocks(path)
    if name.endswith(".txt"):
        return _text_block(path)
    return _json_blocks(path)


def parse_block(block: Block) -> list[Document | BadLine]:
    """The documents of a block in order, and a BadLine for each line that is none."""
    is_text = block.path.name.lower().endswith(".txt")
    parsed: list[Document | BadLine] = []
    for number, line in enumerate(block.lines, block.first_line):
        if isinstance(line, bytes) and not line.strip() and not is_text:
            continue  # an empty line at the end of a file is usual
        try:
            if is_text:
                fields: Any = {"text": _decode(line)}
            else:
                fields = json.loads(_decode(line)) if isinstance(line, bytes) else line
            parsed.append(_document(fields, block.path, number))
        except (ValueError, RecursionError) as error:
            parsed.append(BadLine(f"{block.path}:{number}: {_reason(error)}."))
    return parsed


def _decode(line: Any) -> str:
    return line.decode("utf-8-sig")  # some programs put a byte-order mark before the first line


def _document(fields: Any, path: Path, number: int) -> Document:
    if not isinstance(fields, Mapping):
        raise ValueError(f"must be a JSON object with `text`, got {_kind(fields)}")
    text = fields.get("text")
    if "text" not in fields:
        raise ValueError(f"has no `text`; its fields are {', '.join(map(str, fields)) or 'none'}")
    if not isinstance(text, str):
        raise ValueError(f"`text` must be a string, got {_kind(text)}")
    if not text:
        raise ValueError("`text` is empty")
    text.encode()  # a lone surrogate, which JSON can write, raises here
    identity = fields.get("id")
    if type(identity) is int:
        identity = str(identity)
    identity = _optional("id", identity)
    return Document(
        text,
        f"{path.name}:{number}" if identity is None else identity,
        _optional("source", fields.get("source")),
        _optional("licence", fields.get("licence", fields.get("license"))),
    )


def _optional(name: str, value: Any) -> str | None:
    if value is not None and not isinstance(value, str):
        raise ValueError(f"`{name}` must be a string, got {_kind(value)}")
    (value or "").encode()
    return value


def _kind(value: Any) -> str:
    kinds = {dict: "an object", list: "an array", str: "a string", bool: "a boolean"}
    return "null" if value is None else kinds.get(type(value), "a number")


def _reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"not valid JSON: {error.msg} at column {error.colno}"
    if isinstance(error, UnicodeDecodeError):
        return f"not valid UTF-8: byte 0x{error.object[error.start]:02x} at byte {error.start + 1}"
    if isinstance(error, UnicodeEncodeError):
        return f"holds the lone surrogate U+{ord(error.object[error.start]):04X}, which is no text"
    if isinstance(error, RecursionError):
        return "the JSON is nested too deeply"
    return str(error)


def _text_block(path: Path) -> Iterator[Block]:
    data = path.read_bytes()
    yield Block(path, 1, [data], len(data))


def _json_blocks(path: Path) -> Iterator[Block | BadLine]:
    with path.open("rb") as file:
        read = _reader(path, file)
        number, rest, lines, held = 1, b"", [], 0
        while True:
            try:
                data = read(_READ_BYTES)
            except (OSError, EOFError, zlib.error, zstandard.ZstdError) as error:
                yield Block(path, number, lines, file.tell())
                reason = str(error).rstrip(".") or "it is cut short"
                yield BadLine(f"{path}:{number + len(lines)}: cannot be read: {reason}.")
                return
            *whole, rest = (rest + data).split(b"\n") if data else (rest, b"")
            for line in whole:
                lines.append(line)
                held += len(line)
                if held >= _BLOCK_BYTES:
                    yield Block(path, number, lines, file.tell())
                    number, lines, held = number + len(lines), [], 0
            if not data:
                yield Block(path, number, lines, file.tell())
                return


def _reader(path: Path, file: IO[bytes]) -> Callable[[int], bytes]:
    if path.name.lower().endswith(".gz"):
        return gzip.GzipFile(fileobj=file).read1
    if path.name.lower().endswith(".zst"):
        return _zstandard_reader(file)
    return file.read


def _zstandard_reader(file: IO[bytes]) -> Callable[[int], bytes]:
    """Reads all frames of a file, and raises EOFError when the last one is cut short.

    The library's own stream reader takes a file that was cut short for a whole one.
    """
    decompressor = zstandard.ZstdDecompressor().decompressobj()
    started = False

    def read(size: int) -> bytes:
        nonlocal decompressor, started
        compressed = b""
        while True:
            compressed = compressed or file.read(size)
            if not compressed:
                if started:
                    raise EOFError("the file is cut short in a zstd frame")
                return b""
            started = True
            data = decompressor.decompress(compressed)
            compressed = b""
            if decompressor.eof:
                compressed = decompressor.unused_data
                file.seek(-len(compressed), 1)
                compressed = b""
                decompressor, started = zstandard.ZstdDecompressor().decompressobj(), False
            if data:
                return data

    return read


def _parquet_blocks(path: Path) -> Iterator[Block | BadLine]:
    number, size = 1, path.stat().st_size
    try:
        with pq.ParquetFile(path) as file:
            names = [name for name in file.schema_arrow.names if name in _COLUMNS]
            if "text" not in names:
                yield BadLine(f"{path}:1: has no column `text`.")
                return
            total = max(file.metadata.num_rows, 1)
            for batch in file.iter_batches(batch_size=256, columns=names):
                yield Block(path, number, _rows(batch), size * (number - 1) // total)
                number += batch.num_rows
    except (OSError, pa.ArrowException) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        yield BadLine(f"{path}:{number}: cannot be read: {reason}.")


def _rows(batch: pa.RecordBatch) -> list[Mapping[str, Any]]:
    try:
        return batch.to_pylist()
    except UnicodeDecodeError:  # find the rows to blame; a Row raises again when it is parsed
        columns = {name: batch.column(name).cast(pa.binary()) for name in batch.schema.names}
        return [
            _BinaryRow({name: column[i].as_py() for name, column in columns.items()})
            for i in range(batch.num_rows)
        ]


class _BinaryRow(dict[str, Any]):
    """A row whose strings are decoded when they are looked at, so that only bad ones fail."""

    def get(self, key: str, default: Any = None) -> Any:
        value = super().get(key, default)
        return value.decode() if isinstance(value, bytes) else value
