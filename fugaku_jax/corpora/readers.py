"""Documents of local and remote files: what `data/corpus.py` reads, and WARC.

A file is read by several tasks, each of which parses the blocks that fall to it.
"""

import contextlib
import gzip
import io
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from fugaku_jax.corpora.extras import extra
from fugaku_jax.data.corpus import TEXT_ENDINGS, BadLine, Document, parse_block, read_blocks
from fugaku_jax.errors import InputError

WARC_ENDINGS = (".warc", ".warc.gz", ".wet", ".wet.gz")
_WARC_BLOCK = 64  # records


@contextlib.contextmanager
def local_copy(url: str) -> Iterator[Path]:
    """Give a file as one of this machine; what is remote is fetched, and removed afterwards.

    Raises:
        InputError: it cannot be fetched. What else says so of the copy says it of the URL then.
    """
    if "://" not in url:
        yield Path(url)
        return
    with tempfile.TemporaryDirectory(prefix="fugaku-corpus-") as folder:
        path = Path(folder, url.rstrip("/").rpartition("/")[2])
        try:
            file_system, remote = extra("fsspec").url_to_fs(url)
            file_system.get_file(remote, str(path))
        except Exception as error:  # of as many kinds as there are protocols
            raise InputError(f"input {url}: cannot be fetched: {_sentence(error)}.") from error
        try:
            yield path
        except InputError as error:
            raise InputError(str(error).replace(str(path), url)) from error


def read_documents(
    path: Path, part: int = 0, parts: int = 1, text: str = "text"
) -> Iterator[tuple[int, Document | BadLine]]:
    """The documents of one part of a file, numbered from 1 as its lines, rows or records are.

    Args:
        path: a file.
        part: which part; blocks of lines are dealt to the parts in turn.
        parts: how many there are.
        text: the field or column that holds the text, unless the file is plain text or WARC.

    A file without a document is a bad line of its first part.

    Raises:
        InputError: there is no such file, its ending is unknown, or it is damaged where it begins.
    """
    if path.name.lower().endswith(WARC_ENDINGS):
        yield from _warc_documents(path, part, parts)
        return
    is_text, is_empty = path.name.lower().endswith(".txt"), True
    for index, block in enumerate(read_blocks(path, text)):
        if isinstance(block, BadLine):
            is_empty = False
            if part == 0:  # every part comes to where the file is damaged
                yield _last_number(block), block
            continue
        is_empty = is_empty and not any(map(_says_something, block.lines)) and not is_text
        if index % parts == part:
            given = parse_block(block)
            lines = (
                number
                for number, line in enumerate(block.lines, block.first_line)
                if is_text or _says_something(line)
            )
            yield from zip(lines, given, strict=True)
    if is_empty and part == 0:
        yield 1, BadLine(f"{path}:1: the file holds no document.", ends_file=True)


def _says_something(line: bytes | Mapping[str, Any]) -> bool:
    return not isinstance(line, bytes) or bool(line.strip())


def is_known(name: str) -> bool:
    """Tell whether a file's ending is one that is read: those of tokens are not."""
    return name.lower().endswith(TEXT_ENDINGS + WARC_ENDINGS)


def _last_number(bad: BadLine) -> int:
    return int(bad.sentence.split(": ")[0].rpartition(":")[2])


class _Decompressed(io.RawIOBase):
    """A WARC's bytes, decompressed; keeps where they end too early, which FastWARC does not say."""

    def __init__(self, file: IO[bytes], name: str) -> None:
        self._read = gzip.GzipFile(fileobj=file).read1 if name.endswith(".gz") else file.read
        self._place = 0
        self.damage = ""

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def read(self, size: int = -1) -> bytes:
        try:
            data = self._read(size)
        except (EOFError, OSError, zlib.error) as error:
            self.damage, data = _sentence(error), b""
        self._place += len(data)
        return data


def _warc_documents(path: Path, part: int, parts: int) -> Iterator[tuple[int, Document | BadLine]]:
    """The pages of a WARC: HTML of responses as plain text, and the text of WET's conversions."""
    if not path.is_file():
        raise InputError(f"input {path}: there is no such file.")
    number, pages = 0, _Pages()
    with path.open("rb") as file:
        stream = _Decompressed(file, path.name.lower())
        for number, record, body in _records(stream, part, parts):
            document = pages.page(record, body) if body is not None else None
            if document is not None:
                yield number, document
    if stream.damage and part == 0:
        place = max(number, 1)
        sentence = f"{path}:{place}: cannot be read from here on: {stream.damage}."
        yield place, BadLine(sentence, ends_file=True)
    if number == 0 and not stream.damage and part == 0:
        yield 1, BadLine(f"{path}:1: the file holds no WARC record of a page.", ends_file=True)


def _records(
    stream: _Decompressed, part: int, parts: int
) -> Iterator[tuple[int, Any, bytes | None]]:
    """The records of pages up to where the file is damaged, with the bodies of one part.

    What FastWARC stumbles over is damage.
    """
    warc = extra("fastwarc.warc")
    kinds = warc.WarcRecordType.response | warc.WarcRecordType.conversion
    try:
        records = warc.ArchiveIterator(stream, record_types=kinds, parse_http=True)
        for number, record in enumerate(records, 1):
            mine = (number - 1) // _WARC_BLOCK % parts == part
            body = record.reader.read() if mine else None
            if body is not None and len(body) < record.content_length:
                stream.damage = stream.damage or "the record is cut short"
            if stream.damage:
                return
            yield number, record, body
    except (GeneratorExit, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic of Rust's is no Exception
        stream.damage = stream.damage or _sentence(error)


class _Pages:
    """Makes documents of records."""

    def __init__(self) -> None:
        self._extract = extra("resiliparse.extract.html2text").extract_plain_text
        self._conversion = extra("fastwarc.warc").WarcRecordType.conversion
        self._encoding = extra("resiliparse.parse.encoding")

    def page(self, record: Any, body: bytes) -> Document | None:
        """Return the text of a page; None if it has none."""
        url = record.headers.get("WARC-Target-URI") or record.record_id
        if record.record_type == self._conversion:
            text = body.decode(errors="replace")
        else:
            kind = (record.http_content_type or "").lower()
            if kind not in ("text/html", "application/xhtml+xml", "text/plain"):
                return None
            charset = record.http_charset or self._encoding.detect_encoding(body)
            text = self._encoding.bytes_to_str(body, charset)
            if kind != "text/plain":
                text = self._extract(text, main_content=True, alt_texts=False)
        text = text.encode(errors="ignore").decode()
        return Document(text, url, url, None) if text.strip() else None


def _sentence(error: BaseException) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
