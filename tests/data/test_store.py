"""A store holds exactly the tokens and the documents it was built from, whole or not at all."""

import hashlib
import json
import lzma
import shutil
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sentencepiece
import tensorstore as ts
import zstandard
from small_corpora import make_texts, whole_table, write_jsonl

from fugaku_jax.data import corpus, kvstore, store_format
from fugaku_jax.data.build import build_store, choose_tokenizer
from fugaku_jax.data.inputs import InputSet
from fugaku_jax.data.split_writer import EncodedDocument
from fugaku_jax.data.store import Store
from fugaku_jax.data.tokenizer import Tokenizer
from fugaku_jax.data.writer import StoreWriter
from fugaku_jax.errors import InputError
from fugaku_jax.ledger import documents


def build(
    out: Path | str, texts: list[str], folder: Path, tokenizer: Tokenizer, **options: Any
) -> Store:
    """A store of one set."""
    path = write_jsonl(folder / "texts.jsonl", texts)
    build_store(str(out), [InputSet("set", (path,))], tokenizer, **options)
    return Store.open(str(out))


def all_tokens(store: Store, split: store_format.SplitName) -> np.ndarray:
    """Every token of the first set."""
    length = getattr(store.sets[0], split).tokens
    return store.read(0, split, np.array([0]), length)[0]


def test_tokens_are_those_of_sentencepiece_over_whole_documents(tmp_path, tokenizer):
    texts = [*make_texts(60), " ".join(make_texts(3000, seed=9))]
    store = build(tmp_path / "s", texts, tmp_path, tokenizer, validation=0.2)
    oracle = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.model_bytes)
    by_hash = {hashlib.sha256(text.encode()).hexdigest(): text for text in texts}
    seen = []
    for split in store_format.SPLITS:
        tokens, texts_in_order = all_tokens(store, split), []
        for row in whole_table(store, split).to_pylist():
            text = by_hash[row["sha256"]]
            run = tokens[row["start"] : row["start"] + row["length"]]
            assert run.tolist() == [*oracle.encode(text), oracle.eos_id()]
            assert row["bytes"] == len(text.encode())
            texts_in_order.append(text)
        seen += texts_in_order
        size = getattr(store.sets[0], split)
        assert (size.documents, size.bytes) == (
            len(texts_in_order),
            sum(len(text.encode()) for text in texts_in_order),
        )
        if split == "validation":
            held_out = "".join(texts_in_order).encode()
            xz = {"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": 2 << 20}
            assert size.xz_bytes == len(lzma.compress(held_out, filters=[xz]))
    assert sorted(seen) == sorted(texts)


def test_the_number_of_workers_changes_nothing(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(corpus, "_BLOCK_BYTES", 2000)  # many blocks, so that workers overtake
    texts = make_texts(400)
    one = build(tmp_path / "one", texts, tmp_path, tokenizer, workers=1)
    four = build(tmp_path / "four", texts, tmp_path, tokenizer, workers=4)
    assert one.sha256 == four.sha256
    for split in store_format.SPLITS:
        np.testing.assert_array_equal(all_tokens(one, split), all_tokens(four, split))


def test_the_root_hash_changes_with_every_input(tmp_path, tokenizer):
    texts = make_texts(30)
    hashes = {
        build(tmp_path / "s", texts, tmp_path, tokenizer).sha256,
        build(tmp_path / "s", texts[:-1], tmp_path, tokenizer).sha256,
        build(tmp_path / "s", texts[::-1], tmp_path, tokenizer).sha256,
        build(tmp_path / "s", texts, tmp_path, tokenizer, validation=0.3).sha256,
    }
    path = write_jsonl(tmp_path / "texts.jsonl", texts)
    for each in (InputSet("set", (path,), weight=2.0), InputSet("set", (path,), licence="MIT")):
        build_store(str(tmp_path / "s"), [each], tokenizer)
        hashes.add(Store.open(str(tmp_path / "s")).sha256)
    assert len(hashes) == 6


def test_shards_and_chunks_join_without_a_seam(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(store_format, "SHARD_TOKENS", 512)
    monkeypatch.setattr(store_format, "CHUNK_TOKENS", 64)
    texts = make_texts(200)
    store = build(tmp_path / "s", texts, tmp_path, tokenizer, validation=0)
    expected = np.concatenate([[*tokenizer.encode(text), 2] for text in texts])
    tokens = all_tokens(store, "train")
    np.testing.assert_array_equal(tokens, expected)
    assert len(list((tmp_path / "s").glob("*/0/train/c/*"))) == -(-len(tokens) // 512)
    starts = np.arange(0, len(tokens) - 100, 37)
    runs = store.read(0, "train", starts, 100)
    np.testing.assert_array_equal(runs, [tokens[start : start + 100] for start in starts])


def test_a_document_that_is_stored_keeps_nothing_of_the_block_it_came_in(tmp_path, tokenizer):
    # Else a few that are held out of every block would keep all tokens of a corpus in memory.
    with StoreWriter(str(tmp_path / "s"), tokenizer) as writer:
        added = writer.add_set("set")
        block = np.ones(100_000, store_format.token_dtype(tokenizer.vocab_size))
        alive = weakref.ref(block)
        row = documents.DocumentRow("a", "source", None, "0" * 64, length=3, bytes=4)
        for side in store_format.SPLITS:
            added.append(EncodedDocument(row, block[:3], b"text"), side)
        del block
        assert alive() is None


def test_a_document_keeps_its_side_when_others_come(tmp_path, tokenizer):
    few, many = make_texts(100), make_texts(100) + make_texts(100, seed=4)
    sides = []
    for texts in (few, many):
        store = build(tmp_path / "s", texts, tmp_path, tokenizer, validation=0.3)
        sides.append(set(whole_table(store, "validation")["sha256"].to_pylist()))
    assert sides[0] < sides[1]
    assert 0.15 < len(sides[1]) / 200 < 0.45


@pytest.mark.parametrize(("count", "held_out"), [(1, 0), (2, 1), (5, 1)])
def test_something_is_held_out_as_soon_as_there_are_two_documents(
    tmp_path, tokenizer, count, held_out
):
    for validation in (1e-9, 1 - 1e-9):
        store = build(tmp_path / "s", make_texts(count), tmp_path, tokenizer, validation=validation)
        sizes = store.sets[0].train.documents, store.sets[0].validation.documents
        if validation < 0.5:
            assert sizes == (count - held_out, held_out)
        else:
            assert sizes == (1, count - 1)
    assert (
        build(tmp_path / "s", make_texts(5), tmp_path, tokenizer, validation=0)
        .sets[0]
        .validation.documents
        == 0
    )


def test_a_store_in_memory_works_like_one_on_the_disk(tmp_path, tokenizer):
    texts = make_texts(50)
    on_disk = build(tmp_path / "s", texts, tmp_path, tokenizer)
    in_memory = build("memory://stores/a", texts, tmp_path, tokenizer)
    assert in_memory.sha256 == on_disk.sha256
    assert build(f"file://{tmp_path}/t", texts, tmp_path, tokenizer).sha256 == on_disk.sha256
    np.testing.assert_array_equal(all_tokens(in_memory, "train"), all_tokens(on_disk, "train"))
    assert in_memory.tokenizer().sha256 == tokenizer.sha256


def test_the_tokenizer_can_be_trained_on_the_inputs(tmp_path):
    path = write_jsonl(tmp_path / "t.jsonl", make_texts(100))
    trained = choose_tokenizer("train:320", [InputSet("t", (path,))], "stop")
    assert trained.vocab_size == 320
    with pytest.raises(InputError, match="whole number"):
        choose_tokenizer("train:many", [InputSet("t", (path,))], "stop")


def test_bad_lines_are_counted_and_left_out_when_asked(tmp_path, tokenizer):
    path = tmp_path / "texts.jsonl"
    path.write_text('{"text": "good"}\n{"txt": 1}\n{"text": "good"}\n[]\n')
    inputs = [InputSet("set", (path,))]
    with pytest.raises(InputError, match=r"texts\.jsonl:2: has no `text`.*--on-bad-line skip"):
        build_store(str(tmp_path / "s"), inputs, tokenizer)
    assert not (tmp_path / "s").exists()
    report = build_store(str(tmp_path / "s"), inputs, tokenizer, on_bad_line="skip")
    assert [line.split(": ")[0] for line in report.bad_lines] == [f"{path}:2", f"{path}:4"]
    assert Store.open(str(tmp_path / "s")).sets[0].train.documents == 1


def test_of_many_bad_lines_the_first_are_listed_and_all_are_counted(tmp_path, tokenizer):
    path = tmp_path / "texts.jsonl"
    path.write_text('{"text": "good"}\n' + "{}\n" * 1234)
    report = build_store(
        str(tmp_path / "s"), [InputSet("set", (path,))], tokenizer, on_bad_line="skip"
    )
    assert report.bad_line_count == 1234
    assert [line.split(": ")[0] for line in report.bad_lines] == [
        f"{path}:{number}" for number in range(2, 1002)
    ]


def test_what_filters_decided_of_a_document_stands_in_its_row(tmp_path, tokenizer):
    jsonl, parquet = tmp_path / "a.jsonl", tmp_path / "b.parquet"
    jsonl.write_text('{"text": "one", "decisions": "kept: 日本語 0.99"}\n{"text": "two"}\n')
    pq.write_table(pa.table({"text": ["three"], "decisions": ["kept"]}), parquet)
    build_store(str(tmp_path / "s"), [InputSet("set", (jsonl, parquet))], tokenizer, validation=0)
    store = Store.open(str(tmp_path / "s"))
    assert whole_table(store, "train")["decisions"].to_pylist() == [
        "kept: 日本語 0.99",
        None,
        "kept",
    ]
    jsonl.write_text('{"text": "one", "decisions": ["kept"]}\n')
    with pytest.raises(InputError, match="`decisions` must be a string, got an array"):
        build_store(str(tmp_path / "s"), [InputSet("set", (jsonl,))], tokenizer)


def test_rows_are_found_by_token_and_by_id_in_the_files_that_have_them(
    tmp_path, tokenizer, monkeypatch
):
    monkeypatch.setattr(documents, "BLOCK_ROWS", 16)
    store = build(tmp_path / "s", make_texts(100), tmp_path, tokenizer, validation=0)
    rows = whole_table(store, "train").to_pylist()
    files = sorted((tmp_path / "s").glob("*/0/train.documents/*"))
    assert len(files) == 7
    table = store.documents(0, "train")
    last = rows[-1]["start"] + rows[-1]["length"] - 1
    for first, end in ((0, 0), (0, last), (700, 701), (300, 2500), (last, last + 99)):
        hit = [r for r in rows if r["start"] <= end and r["start"] + r["length"] > first]
        assert table.spanning(first, end).to_pylist() == hit
    assert table.spanning(last + 1, last + 9).num_rows == 0
    assert list(table.find(rows[40]["id"])) == [(40, rows[40])]
    assert list(table.find("nobody")) == []
    # One document wants one file, and says which it misses.
    for number in (0, 1, 3, 4, 5, 6):
        next((tmp_path / "s").glob(f"*/0/train.documents/{number}.parquet")).unlink()
    again = Store.open(str(tmp_path / "s")).documents(0, "train")
    assert again.spanning(rows[35]["start"], rows[35]["start"]).to_pylist() == [rows[35]]
    with pytest.raises(InputError, match=r"train\.documents/0\.parquet is missing"):
        again.spanning(0, 0)


def test_a_file_that_is_damaged_is_no_bad_line(tmp_path, tokenizer):
    path = tmp_path / "texts.jsonl.zst"
    frame = zstandard.ZstdCompressor().compress(b'{"text": "good"}\n')
    path.write_bytes(frame + frame[:-3])
    inputs = [InputSet("set", (path,))]
    with pytest.raises(InputError, match=r"zst:2: .*--on-bad-line skip` leaves the rest of such"):
        build_store(str(tmp_path / "s"), inputs, tokenizer)
    report = build_store(str(tmp_path / "s"), inputs, tokenizer, on_bad_line="skip")
    assert not report.bad_lines
    assert [sentence.split(": ")[0] for sentence in report.damaged_files] == [f"{path}:2"]
    path.write_bytes(frame[:-3])  # which gives nothing, and so cannot be skipped
    with pytest.raises(InputError, match="cannot be read: the file is cut short in a zstd frame"):
        build_store(str(tmp_path / "s"), inputs, tokenizer, on_bad_line="skip")


def test_an_empty_corpus_is_refused(tmp_path, tokenizer):
    with pytest.raises(InputError, match="set: holds no document"):
        build(tmp_path / "s", [], tmp_path, tokenizer)
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("options", "reason"), [({"validation": 1.5}, "validation"), ({"workers": 0}, "workers")]
)
def test_wrong_options_are_refused(tmp_path, tokenizer, options, reason):
    with pytest.raises(InputError, match=reason):
        build(tmp_path / "s", make_texts(3), tmp_path, tokenizer, **options)


def test_a_folder_that_is_no_store_is_left_alone(tmp_path, tokenizer):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match=r"holds files that are no token store \(thesis\.txt\)"):
        build(tmp_path / "home", make_texts(3), tmp_path, tokenizer)
    with pytest.raises(InputError, match="this is a file"):
        build(tmp_path / "home" / "thesis.txt", make_texts(3), tmp_path, tokenizer)
    assert [path.name for path in (tmp_path / "home").iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("nth_write", range(12))
def test_a_full_disk_leaves_the_old_store_whole(tmp_path, tokenizer, monkeypatch, nth_write):
    old = build(tmp_path / "s", make_texts(40), tmp_path, tokenizer)
    files = sorted(path for path in (tmp_path / "s").rglob("*"))
    writes = iter(range(100))
    originals = {owner: owner.write for owner in (ts.KvStore, ts.TensorStore)}

    def fail(self, *args, **kwargs):
        if next(writes) >= nth_write:
            raise ValueError("RESOURCE_EXHAUSTED: No space left on device [path='x']")
        return originals[type(self)](self, *args, **kwargs)

    for owner in originals:
        monkeypatch.setattr(owner, "write", fail)
    # Of a side: tokens, hashes of chunks, documents and blocks; then the tokenizer and the index.
    if nth_write < 10:
        with pytest.raises(InputError, match=r"cannot be written: .*No space left on device\.$"):
            build(tmp_path / "s", make_texts(90), tmp_path, tokenizer)
        assert sorted(path for path in (tmp_path / "s").rglob("*")) == files
        assert Store.open(str(tmp_path / "s")).sha256 == old.sha256
        assert len(all_tokens(old, "train")) == old.sets[0].train.tokens
    else:
        assert build(tmp_path / "s", make_texts(90), tmp_path, tokenizer).sha256 != old.sha256


def test_a_bad_line_after_a_written_shard_leaves_nothing_behind(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(store_format, "SHARD_TOKENS", 64)
    monkeypatch.setattr(store_format, "CHUNK_TOKENS", 64)
    monkeypatch.setattr(corpus, "_BLOCK_BYTES", 500)
    path = write_jsonl(tmp_path / "texts.jsonl", make_texts(100))
    with path.open("a") as file:
        file.write("{}\n")
    with pytest.raises(InputError, match=r"texts\.jsonl:101"):
        build_store(str(tmp_path / "s"), [InputSet("set", (path,))], tokenizer)
    assert not (tmp_path / "s").exists()


def test_an_interrupted_build_leaves_nothing_behind(tmp_path, tokenizer):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "s", make_texts(40), tmp_path, tokenizer, progress=interrupt)
    assert not (tmp_path / "s").exists()


def test_a_new_version_replaces_the_old_one_and_what_killed_builds_left(tmp_path, tokenizer):
    build(tmp_path / "s", make_texts(10), tmp_path, tokenizer)
    (tmp_path / "s" / "build-dead" / "0").mkdir(parents=True)
    (tmp_path / "s" / "build-dead" / "0" / "junk").write_text("x")
    store = build(tmp_path / "s", make_texts(20), tmp_path, tokenizer)
    assert store.sets[0].train.documents + store.sets[0].validation.documents == 20
    names = sorted(path.name for path in (tmp_path / "s").iterdir())
    assert len(names) == 2
    assert names[1] == "store.json"


def edit_index(folder: Path, **changes) -> None:
    """Changes fields of store.json."""
    path = folder / "store.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def cut_otherwise(folder: Path) -> None:
    """Has a read of one token take 8 GB."""
    path = next(folder.glob("build-*/0/train/zarr.json"))
    for length in (store_format.SHARD_TOKENS, store_format.CHUNK_TOKENS):
        path.write_text(path.read_text().replace(f"[{length}]", f"[{1 << 32}]"))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda folder: (folder / "store.json").unlink(), "there is no token store here"),
        (lambda folder: (folder / "store.json").write_text("{"), "is corrupt"),
        (lambda folder: (folder / "store.json").write_text("{}"), "not that of a token store"),
        (lambda folder: edit_index(folder, version=4), "format version 4, this program reads"),
        (lambda folder: edit_index(folder, vocab_size=9), "is corrupt"),
        (lambda folder: edit_index(folder, sets=[{"name": 3}]), "is corrupt"),
        (lambda folder: edit_index(folder, prefix="../../etc"), "is corrupt"),
        (lambda folder: shutil.rmtree(next(folder.glob("build-*/0/train"))), "cannot be read"),
        (lambda folder: cut_otherwise(folder), "train tokens of set set are cut in other parts"),
    ],
)
def test_a_damaged_store_is_refused_when_opened(tmp_path, tokenizer, change, reason):
    build(tmp_path / "s", make_texts(20), tmp_path, tokenizer)
    change(tmp_path / "s")
    with pytest.raises(InputError, match=reason):
        Store.open(str(tmp_path / "s"))


def damage(path: Path) -> None:
    """Turns one byte in the middle of a file over."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


def test_damaged_contents_are_found_when_read(tmp_path, tokenizer, monkeypatch):
    build(tmp_path / "s", make_texts(20), tmp_path, tokenizer)
    for pattern in ("*/0/train/c/0", "*/0/train.documents/0.parquet", "*/tokenizer.model"):
        damage(next((tmp_path / "s").glob(pattern)))
    monkeypatch.setattr(kvstore, "_CONTEXT", ts.Context())  # what was written may still be cached
    store = Store.open(str(tmp_path / "s"))
    with pytest.raises(InputError, match="cannot be read"):
        all_tokens(store, "train")
    with pytest.raises(InputError, match="document table of set set is corrupt"):
        whole_table(store, "train")
    with pytest.raises(InputError, match=r"corrupt|no SentencePiece model"):
        store.tokenizer()


def test_runs_that_leave_a_set_are_refused(store):
    tokens = store.sets[2].train.tokens
    assert store.read(2, "train", np.array([tokens - 5]), 5).shape == (1, 5)
    assert store.read(2, "train", np.array([], np.int64), 5).shape == (0, 5)
    for start in (-1, tokens - 4):
        with pytest.raises(InputError, match=f"set math train has {tokens} tokens"):
            store.read(2, "train", np.array([start]), 5)


def test_tokens_take_16_bits_where_the_vocabulary_leaves_room():
    assert store_format.token_dtype(65_499) == "uint16"
    assert store_format.token_dtype(65_500) == "uint32"
