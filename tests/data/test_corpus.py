"""Every format gives the same documents, and every wrong line a sentence with file and number."""

import gzip
import io
import json
import lzma
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from fugaku_jax.data.corpus import BadLine, Document, parse_block, read_blocks
from fugaku_jax.data.lines import read_lines
from fugaku_jax.errors import InputError

ROWS = [
    {"text": "川の音\n\nin the night", "id": "a/1", "source": "diary", "licence": "CC0-1.0"},
    {"text": "second", "id": "a/2", "source": None, "license": "MIT"},
    {"text": "  spaces kept  \n"},
]


def read(path: Path) -> list[Document | BadLine]:
    """All that a file gives."""
    return [
        item
        for block in read_blocks(path)
        for item in ([block] if isinstance(block, BadLine) else parse_block(block))
    ]


def sentence(path: Path) -> str:
    """The only bad line of a file."""
    (bad,) = [item for item in read(path) if isinstance(item, BadLine)]
    return bad.sentence


def jsonl() -> bytes:
    """`ROWS` as JSON lines."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()


def compress_frames(data: bytes) -> bytes:
    """Two zstd frames, as `cat a.zst b.zst` gives."""
    compress = zstandard.ZstdCompressor().compress
    return compress(data[:50]) + compress(data[50:])


ENCODERS = {
    "rows.jsonl": bytes,
    "rows.jsonl.gz": gzip.compress,
    "rows.jsonl.zst": zstandard.ZstdCompressor().compress,
    "frames.jsonl.zst": compress_frames,
    "parts.JSONL.GZ": lambda data: gzip.compress(data[:50]) + gzip.compress(data[50:]),
    "rows.jsonl.xz": lzma.compress,
    "streams.jsonl.xz": lambda data: lzma.compress(data[:50]) + bytes(8) + lzma.compress(data[50:]),
    "mark.jsonl": lambda data: b"\xef\xbb\xbf" + data.replace(b"\n", b"\r\n").rstrip(),
}


@pytest.mark.parametrize("name", ENCODERS)
def test_all_encodings_of_json_lines_give_the_same_documents(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(ENCODERS[name](jsonl()))
    assert read(path) == [
        Document("川の音\n\nin the night", "a/1", "diary", "CC0-1.0"),
        Document("second", "a/2", None, "MIT"),
        Document("  spaces kept  \n", f"{name}:3", None, None),
    ]


def test_parquet_gives_its_rows(tmp_path):
    path = tmp_path / "rows.parquet"
    columns = {"text": [f"t{i}" for i in range(700)], "id": list(range(700)), "other": [0.5] * 700}
    pq.write_table(pa.table(columns), path, row_group_size=100)
    assert read(path) == [Document(f"t{i}", str(i), None, None) for i in range(700)]


def test_a_text_file_is_one_document(tmp_path):
    path = tmp_path / "tale.txt"
    path.write_text("むかし\n\nむかし\n", encoding="utf-8")
    assert read(path) == [Document("むかし\n\nむかし\n", "tale.txt:1", None, None)]


def test_lines_are_numbered_across_blocks(tmp_path):
    path = tmp_path / "long.jsonl"
    line = json.dumps({"text": "x" * 50_000}) + "\n"
    path.write_text(line * 40 + "{\n" + line)
    assert sentence(path).startswith(f"{path}:41: not valid JSON")
    assert read(path)[-1].id == "long.jsonl:42"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"text": "a"', "not valid JSON: Expecting ',' delimiter at column 13"),
        (b'["text"]', "must be a JSON object with `text`, got an array"),
        (b'{"txt": "a", "id": "b"}', "has no `text`; its fields are txt, id"),
        (b'{"text": 5}', "`text` must be a string, got a number"),
        (b'{"text": null}', "`text` must be a string, got null"),
        (b'{"text": ""}', "`text` is empty"),
        (b'{"text": "a", "licence": ["MIT"]}', "`licence` must be a string, got an array"),
        (b'{"text": "ab\xff"}', "not valid UTF-8: byte 0xff at byte 13"),
        (b'{"text": "ab\\ud800"}', "holds the lone surrogate U+D800, which is no text"),
        (b"[" * 100_000, "the JSON is nested too deeply"),
    ],
)
def test_a_wrong_line_is_named_with_its_reason(tmp_path, line, reason):
    path = tmp_path / "bad.jsonl"
    path.write_bytes(b'{"text": "fine"}\n' + line + b'\n{"text": "fine too"}\n')
    assert sentence(path) == f"{path}:2: {reason}."
    assert len(read(path)) == 3


@pytest.mark.parametrize(
    ("name", "encode"),
    [
        ("cut.jsonl.gz", gzip.compress),
        ("cut.jsonl.zst", zstandard.ZstdCompressor(write_checksum=True).compress),
        ("cut.jsonl.xz", lzma.compress),
    ],
)
def test_a_file_that_is_cut_short_or_damaged_is_named_with_the_line(tmp_path, name, encode):
    rng = random.Random(0)
    written = [rng.randbytes(200).hex() for _ in range(2500)]
    whole = encode("".join(json.dumps({"text": text}) + "\n" for text in written).encode())
    path = tmp_path / name
    path.write_bytes(whole[: len(whole) // 2])
    *documents, last = read(path)
    texts = [document.text for document in documents]
    assert texts == written[: len(texts)]
    assert len(texts) > 500
    assert last.ends_file
    assert last.sentence.startswith(f"{path}:{len(texts) + 1}: cannot be read from here on: ")
    path.write_bytes(whole[:-2000] + bytes(2000))
    assert read(path)[-1].ends_file
    path.write_bytes(whole[:8])
    with pytest.raises(InputError, match=f"input {path}: cannot be read"):
        read(path)


def long_window() -> bytes:
    """`ROWS` as zstd with a window of 2 GiB, as `zstd --long=31` makes them, and of no known size.

    A frame's header is four bytes of mark, one of flags and one of the window's logarithm less 10.
    """
    frame = bytearray(zstandard.ZstdCompressor(write_content_size=False).compress(jsonl()))
    assert frame[4] == 0
    frame[5] = 31 - 10 << 3
    return bytes(frame)


def test_a_window_of_zstd_may_have_2_gib_and_a_larger_one_is_no_bad_line(tmp_path):
    path = tmp_path / "long.jsonl.zst"
    frame = long_window()
    path.write_bytes(frame)
    assert [document.id for document in read(path)] == ["a/1", "a/2", "long.jsonl.zst:3"]
    path.write_bytes(frame[:5] + bytes([32 - 10 << 3]) + frame[6:])
    with pytest.raises(InputError, match=r"long\.jsonl\.zst: cannot be read: .* too much memory"):
        read(path)


def test_each_byte_of_a_zstd_file_is_read_once_though_every_document_is_a_frame(tmp_path):
    class Counted(io.FileIO):
        given = 0

        def read(self, size: int | None = -1) -> bytes | None:
            data = super().read(size)
            self.given += len(data or b"")
            return data

    path = tmp_path / "frames.jsonl.zst"
    compress = zstandard.ZstdCompressor().compress
    lines = [b'{"text": "%d"}' % number for number in range(5000)]
    path.write_bytes(b"".join(compress(line + b"\n") for line in lines))
    with Counted(path) as file:
        assert list(read_lines(file, path.name)) == [*lines, b""]
        assert file.given == path.stat().st_size


COLUMNS = [
    *(pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary()),
    *(pa.binary_view(), pa.dictionary(pa.int32(), pa.string())),
    pa.dictionary(pa.int32(), pa.binary()),
]


@pytest.mark.parametrize("kind", COLUMNS, ids=str)
def test_text_in_parquet_is_utf_8_whatever_its_column_is_called(tmp_path, kind):
    path = tmp_path / "rows.parquet"
    stored = kind.value_type if pa.types.is_dictionary(kind) else kind
    columns = {
        name: pa.array([text.encode() for text in texts], pa.binary()).cast(stored)
        for name, texts in {"text": ["川の音", "second"], "id": ["一", "b"]}.items()
    }
    if pa.types.is_dictionary(kind):
        columns = {name: column.dictionary_encode() for name, column in columns.items()}
    pq.write_table(pa.table(columns), path)
    assert read(path) == [
        Document("川の音", "一", None, None),
        Document("second", "b", None, None),
    ]


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        (pa.array([5.5]), "a number"),
        (pa.array([["a"]]), "an array"),
        (pa.array([0], pa.timestamp("s")), "a value of type datetime"),
        (pa.array([b"\0" * 16], pa.uuid()), "a value of type UUID"),
    ],
)
def test_what_is_no_text_in_parquet_is_called_by_its_kind(tmp_path, column, kind):
    pq.write_table(pa.table({"text": column}), tmp_path / "rows.parquet")
    assert sentence(tmp_path / "rows.parquet").endswith(f"`text` must be a string, got {kind}.")


def test_wrong_parquet_is_named(tmp_path):
    path = tmp_path / "bad.parquet"
    pq.write_table(pa.table({"text": ["a"], "other": ["b"]}), path)
    path.write_bytes(path.read_bytes().replace(b"other", b"\xc6ther"))
    with pytest.raises(InputError, match=r"bad\.parquet: cannot be read: 'utf-8' codec"):
        list(read_blocks(path))
    path.write_bytes(b"PAR1 this is none PAR1")
    with pytest.raises(InputError, match="cannot be read"):
        read(path)
    pq.write_table(pa.table({"body": ["a"], "id": ["b"]}), path)
    with pytest.raises(InputError, match="no column `text`; its columns are body, id"):
        read(path)
    rows = pa.array([b"good", b"b\xffd", b"fine"], pa.binary())
    for kind in (pa.string(), pa.binary()):
        text = pa.Array.from_buffers(kind, 3, rows.buffers())
        pq.write_table(pa.table({"text": text}), path)
        assert sentence(path).startswith(f"{path}:2: not valid UTF-8")


@pytest.mark.parametrize(
    ("name", "reason"),
    [("absent.jsonl", "no such file"), ("notes.csv", "ending"), ("folder.jsonl", "no file")],
)
def test_what_is_no_input_is_refused(tmp_path, name, reason):
    (tmp_path / "notes.csv").write_text("a,b")
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(InputError, match=reason):
        read(tmp_path / name)
