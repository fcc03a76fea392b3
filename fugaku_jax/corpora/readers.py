"""Documents of local and remote files: what `data/corpus.py` reads, and WARC.

A file is read by several tasks, each of which parses the blocks that fall to it.
"""

import contextlib
import gzip
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from fugaku_jax.corpora.extras import extra
from fugaku_jax.data.corpus import ENDINGS, BadLine, Document, parse_block, read_blocks
from fugaku_jax.errors import InputError

WARC_ENDINGS = (".warc", ".warc.gz", ".wet", ".wet.gz")
_WARC_BLOCK = 64  # records
_LARGEST_PAGE = 1 << 24  # bytes; a longer one is no text


@contextlib.contextmanager
def local_copy(url: str) -> Iterator[Path]:
    """Give a file as one of this machine; what is remote is fetched, and removed afterwards."""
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
        yield path


def read_documents(
    path: Path, part: int = 0, parts: int = 1
) -> Iterator[tuple[int, Document | BadLine]]:
    """The documents of one part of a file, numbered from 1 as its lines, rows or records are.

    Args:
        path: a file.
        part: which part; blocks of lines are dealt to the parts in turn.
        parts: how many there are.

    Raises:
        InputError: there is no such file, its ending is unknown, or it gives nothing at all.
    """
    if path.name.lower().endswith(WARC_ENDINGS):
        yield from _warc_documents(path, part, parts)
        return
    for index, block in enumerate(read_blocks(path)):
        if isinstance(block, BadLine):
            if part == 0:  # every part comes to where the file is damaged
                yield _last_number(block), block
        elif index % parts == part:
            given = parse_block(block)
            lines = (
                number
                for number, line in enumerate(block.lines, block.first_line)
                if not isinstance(line, bytes) or line.strip() or path.name.endswith(".txt")
            )
            yield from zip(lines, given, strict=True)


def is_known(name: str) -> bool:
    """Tell whether a file's ending is one that is read."""
    return name.lower().endswith(ENDINGS + WARC_ENDINGS)


def _last_number(bad: BadLine) -> int:
    return int(bad.sentence.split(": ")[0].rpartition(":")[2])


class _Decompressed:
    """A WARC's bytes, decompressed; where they end too early is kept, as FastWARC would not say."""

    def __init__(self, file: IO[bytes], name: str) -> None:
        self._read = gzip.GzipFile(fileobj=file).read if name.endswith(".gz") else file.read
        self.damage = ""

    def read(self, size: int) -> bytes:
        try:
            return self._read(size)
        except (EOFError, OSError, ValueError) as error:
            self.damage = _sentence(error)
        except Exception as error:  # zlib.error has no base of its own
            self.damage = _sentence(error)
        return b""


def _warc_documents(path: Path, part: int, parts: int) -> Iterator[tuple[int, Document | BadLine]]:
    """The pages of a WARC: HTML of responses as plain text, and the text of WET's conversions."""
    warc = extra("fastwarc.warc")
    extract = extra("resiliparse.extract.html2text").extract_plain_text
    decode = extra("resiliparse.parse.encoding")
    kinds = warc.WarcRecordType.response | warc.WarcRecordType.conversion
    if not path.is_file():
        raise InputError(f"input {path}: there is no such file.")
    number = 0
    with path.open("rb") as file:
        stream = _Decompressed(file, path.name.lower())
        records = warc.ArchiveIterator(stream, record_types=kinds, parse_http=True)
        for number, record in enumerate(records, 1):
            length = record.content_length
            mine = (number - 1) // _WARC_BLOCK % parts == part
            body = record.reader.read() if mine else b""
            if mine and len(body) < min(length, _LARGEST_PAGE):
                stream.damage = stream.damage or "the record is cut short"
            if stream.damage:
                break
            document = _page(record, body, extract, decode) if mine else None
            if document is not None:
                yield number, document
    if stream.damage and part == 0:
        sentence = f"{path}:{max(number, 1)}: cannot be read from here on: {stream.damage}."
        yield max(number, 1), BadLine(sentence, ends_file=True)
    if number == 0 and not stream.damage:
        raise InputError(f"input {path}: cannot be read: it holds no WARC record of a page.")


def _page(record: Any, body: bytes, extract: Any, decode: Any) -> Document | None:
    url = record.headers.get("WARC-Target-URI") or record.record_id
    if record.record_type.name == "conversion":
        text = body.decode(errors="replace")
    else:
        kind = (record.http_content_type or "").lower()
        if kind not in ("text/html", "application/xhtml+xml", "text/plain"):
            return None
        charset = record.http_charset or decode.detect_encoding(body)
        text = decode.bytes_to_str(body, charset)
        if kind != "text/plain":
            text = extract(text, main_content=True, alt_texts=False)
    text = text.encode(errors="ignore").decode()
    return Document(text, url, url, None) if text.strip() else None


def _sentence(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
