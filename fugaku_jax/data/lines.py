"""Lines of JSON, plain, in gzip, zstd or xz: bytes are moved and decompressed, then parsed.

Corpora and files of prompts are both read here, so that a byte-order mark, an empty line or a
compressed file is the same to both.
"""

import gzip
import json
import lzma
import zlib
from collections.abc import Callable, Iterator
from typing import IO, Any

import zstandard

LARGEST_WINDOW = 1 << 31
"""Bytes of zstd's window that are allowed, and so of memory that reading a file can take: as many
as `zstd --long=31` asks for. The library's own limit is 2^27. xz's window has 1.5 GiB at most."""
_READ_BYTES = 1 << 20
# Of a file of frames at a time. What lies behind the end of a frame is copied, so that small pieces
# are quickest where every document is a frame; and they decompress to 128 MiB at most.
_FRAME_BYTES = 1 << 12


def read_lines(file: IO[bytes], name: str, longest: int | None = None) -> Iterator[bytes]:
    """The lines of an open file, without their ends.

    Args:
        file: the file.
        name: what it is called; `.gz`, `.zst` and `.xz` at its end say how it is compressed.
        longest: a line of more bytes comes in pieces that are each longer than that; whole if None.

    Raises:
        OSError: it cannot be read, is damaged or cut short; the lines before were given.
    """
    read, parts = _reader(file, name), []
    try:
        while data := read(_READ_BYTES):
            first, *others = data.split(b"\n")
            parts.append(first)
            for part in others:
                yield b"".join(parts)
                parts = [part]
            if longest is not None and sum(map(len, parts)) > longest:
                yield b"".join(parts)
                parts = []
    except (EOFError, zlib.error, zstandard.ZstdError, lzma.LZMAError) as error:
        raise OSError(str(error)) from error
    yield b"".join(parts)


def parse_line(line: bytes) -> Any:
    """The value of a line of JSON.

    Raises:
        ValueError: it is none; the message says what is wrong and where.
    """
    try:
        # Some programs put a byte-order mark before the first line.
        return json.loads(line.decode("utf-8-sig"))
    except json.JSONDecodeError as error:
        raise ValueError(f"not valid JSON: {error.msg} at column {error.colno}") from None
    except RecursionError:
        raise ValueError("the JSON is nested too deeply") from None


def _reader(file: IO[bytes], name: str) -> Callable[[int], bytes]:
    """A function that gives some decompressed bytes, and none at the end."""
    if name.lower().endswith(".gz"):
        return gzip.GzipFile(fileobj=file).read1
    if name.lower().endswith(".zst"):
        zstd = zstandard.ZstdDecompressor(max_window_size=LARGEST_WINDOW)
        frames = _frames(file, zstd.decompressobj, "a zstd frame")
        return lambda _: next(frames, b"")
    if name.lower().endswith(".xz"):
        frames = _frames(file, _xz, "an xz stream", padding=b"\0")
        return lambda _: next(frames, b"")
    return file.read


def _xz() -> lzma.LZMADecompressor:
    return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=LARGEST_WINDOW)


def _frames(
    file: IO[bytes], begin: Callable[[], Any], kind: str, padding: bytes = b""
) -> Iterator[bytes]:
    """Decompresses all frames of a file, and raises EOFError when the last one is cut short.

    The libraries' own readers of several frames take a file that was cut short for a whole one
    (zstandard), or what follows a whole one for nothing (lzma). `padding` may lie between frames.
    """
    frame, rest = None, b""
    while piece := rest or file.read(_FRAME_BYTES):
        rest = b""
        if frame is None:
            piece = piece.lstrip(padding) if padding else piece
            if not piece:
                continue
            frame = begin()
        if data := frame.decompress(piece):
            yield data
        if frame.eof:
            frame, rest = None, frame.unused_data
    if frame is not None:
        raise EOFError(f"the file is cut short in {kind}")
