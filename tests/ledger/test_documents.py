"""The document table survives Parquet, and its leaves tell any two rows apart."""

import dataclasses
import hashlib
import struct
import threading

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fugaku_jax.ledger.documents import (
    SCHEMA,
    DocumentRow,
    altered_rows,
    from_parquet,
    leaf_hashes,
    make_table,
    to_parquet,
)

ROWS = [
    DocumentRow("a", "川", None, "00" * 32, 3, 10, "kept: 日本語 0.99"),
    DocumentRow("b", "s", "MIT", "11" * 32, 5, 20),
]


def parquet(table):
    return to_parquet(table, leaf_hashes(table))


def many(count):
    return [
        DocumentRow(f"wiki/{i}", f"源{i % 3}", None if i % 2 else "MIT", f"{i:064x}", 1 + i % 7, i)
        for i in range(count)
    ]


def test_spans_lie_one_after_the_other():
    assert make_table(ROWS)["start"].to_pylist() == [0, 3]
    assert make_table(ROWS, start=9)["start"].to_pylist() == [9, 12]
    assert make_table([]).num_rows == 0


def test_parquet_keeps_every_value():
    for table in (make_table(ROWS), make_table(many(3000), start=7), make_table([])):
        assert from_parquet(parquet(table)).equals(table)
    assert from_parquet(parquet(make_table(ROWS)), ["licence"])["licence"].to_pylist() == [
        None,
        "MIT",
    ]


def test_leaves_are_the_bytes_that_are_documented():
    for rows, start in ((ROWS, 0), (many(50), 2**40)):
        table = make_table(rows, start)
        for row, leaf in zip(table.to_pylist(), leaf_hashes(table), strict=True):
            strings = [row[name] for name in ("id", "source", "licence", "sha256", "decisions")]
            encoded = [None if each is None else each.encode() for each in strings]
            lengths = [-1 if each is None else len(each) for each in encoded]
            data = struct.pack("<3q5i", row["start"], row["length"], row["bytes"], *lengths)
            data += b"".join(each or b"" for each in encoded)
            assert leaf == hashlib.sha256(b"\0" + data).digest()
    assert leaf_hashes(make_table([])) == []
    # Part of a table is its rows' leaves too.
    table = make_table(many(40))
    assert leaf_hashes(table.slice(10, 7)) == leaf_hashes(table)[10:17]


def test_the_leaf_changes_with_every_field():
    rows = [ROWS[0], ROWS[1]]
    changes = {
        "id": "c", "source": "t", "licence": "", "sha256": "2", "length": 4, "bytes": 9,
        "decisions": None,
    }  # fmt: skip
    rows += [dataclasses.replace(ROWS[0], **{name: value}) for name, value in changes.items()]
    rows.append(dataclasses.replace(ROWS[1], decisions=""))
    # A value that moves from one field to the next is another row too.
    rows.append(dataclasses.replace(ROWS[0], id="a川", source=""))
    leaves = [leaf_hashes(make_table([row]))[0] for row in rows]
    leaves += leaf_hashes(make_table([ROWS[0]], start=1))
    assert len(set(leaves)) == len(rows) + 1


def test_what_is_no_document_table_is_refused():
    with pytest.raises(ValueError, match="columns id, source"):
        from_parquet(written(pa.table({"id": ["a"]})))
    with pytest.raises(ValueError, match=r"."):
        from_parquet(b"PAR1 nothing PAR1")
    gap = make_table(ROWS).set_column(4, SCHEMA.field("start"), pa.array([0, 4]))
    with pytest.raises(ValueError, match="one after the other"):
        from_parquet(parquet(gap))


def written(table):
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return sink.getvalue().to_pybytes()


def test_a_table_without_decisions_as_format_1_wrote_it_is_read():
    table = make_table(ROWS)
    there = from_parquet(written(table.drop_columns(["decisions"])))
    assert there["decisions"].to_pylist() == [None, None]
    assert there.drop_columns(["decisions"]).equals(table.drop_columns(["decisions"]))


def test_rows_that_were_altered_are_told():
    table = make_table(many(5000))
    leaves = leaf_hashes(table)
    assert altered_rows(to_parquet(table, leaves)) == []
    licences = table["licence"].to_pylist()
    licences[4321] = "CC0-1.0"
    place = SCHEMA.get_field_index("licence")
    other = table.set_column(place, SCHEMA.field("licence"), pa.array(licences))
    assert altered_rows(to_parquet(other, leaves)) == [(4321, "wiki/4321")]
    # One byte of a page takes at most a group of rows with it.
    data = bytearray(to_parquet(table, leaves))
    data[len(data) // 2] ^= 0xFF
    assert 0 < len(altered_rows(bytes(data))) <= 1024
    with pytest.raises(ValueError, match="cannot be read"):
        altered_rows(b"PAR1 nothing PAR1")


def test_no_thread_of_arrows_keeps_the_bytes_of_a_table():
    # Such a thread gives them back when it likes, and aborts a program that has ended by then.
    last_holders = []

    class Watched(bytes):
        def __del__(self) -> None:
            last_holders.append(threading.get_ident())

    data = parquet(make_table(ROWS))
    for _ in range(50):
        from_parquet(Watched(data))
    assert last_holders == [threading.get_ident()] * 50
