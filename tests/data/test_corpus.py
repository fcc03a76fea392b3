"""Every format gives the same documents, and every wrong line a sentence with file and number."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from fugaku_jax.data.corpus import BadLine, Document, parse_block, read_blocks
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
    ],
)
def test_a_file_that_is_cut_short_or_damaged_is_named_with_the_line(tmp_path, name, encode):
    whole = encode("".join(json.dumps({"text": str(i**9)}) + "\n" for i in range(3000)).encode())
    path = tmp_path / name
    path.write_bytes(whole[: len(whole) // 2])
    assert sentence(path).startswith(f"{path}:")
    assert "cannot be read" in sentence(path)
    path.write_bytes(whole[:2000] + bytes(100) + whole[2100:])
    assert any(isinstance(item, BadLine) for item in read(path))


def test_wrong_parquet_is_named(tmp_path):
    path = tmp_path / "bad.parquet"
    path.write_bytes(b"PAR1 this is none PAR1")
    assert "cannot be read" in sentence(path)
    pq.write_table(pa.table({"body": ["a"]}), path)
    assert sentence(path) == f"{path}:1: has no column `text`."
    rows = pa.array([b"good", b"b\xffd", b"fine"], pa.binary())
    text = pa.Array.from_buffers(pa.string(), 3, rows.buffers())
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
