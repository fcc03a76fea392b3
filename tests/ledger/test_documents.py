"""The document table survives Parquet, and its digest tells any two tables apart."""

import dataclasses
import threading

import pyarrow as pa
import pytest

from fugaku_jax.ledger.documents import DocumentRow, digest, from_parquet, make_table, to_parquet

ROWS = [
    DocumentRow("a", "川", None, "00" * 32, 3, 10),
    DocumentRow("b", "s", "MIT", "11" * 32, 5, 20),
]


def test_spans_lie_one_after_the_other():
    assert make_table(ROWS)["start"].to_pylist() == [0, 3]
    assert make_table([]).num_rows == 0


def test_parquet_keeps_every_value():
    table = make_table(ROWS)
    assert from_parquet(to_parquet(table)).equals(table)
    assert digest(from_parquet(to_parquet(table))) == digest(table)


def test_the_digest_changes_with_every_field():
    tables = [make_table(ROWS), make_table(ROWS[::-1]), make_table(ROWS[:1])]
    changes = {
        "id": "c", "source": "t", "licence": "", "sha256": "2", "length": 4, "bytes": 9,
    }  # fmt: skip
    for field, value in changes.items():
        tables.append(make_table([dataclasses.replace(ROWS[0], **{field: value}), ROWS[1]]))
    # A value that moves from one field to the next is another table too.
    tables.append(make_table([dataclasses.replace(ROWS[0], id="a川", source=""), ROWS[1]]))
    assert len({digest(table) for table in tables}) == len(tables)


def test_what_is_no_document_table_is_refused():
    with pytest.raises(ValueError, match="columns id, source"):
        from_parquet(to_parquet(pa.table({"id": ["a"]})))
    with pytest.raises(ValueError, match=r"."):
        from_parquet(b"PAR1 nothing PAR1")
    gap = make_table(ROWS).set_column(4, "start", pa.array([0, 4]))
    with pytest.raises(ValueError, match="one after the other"):
        from_parquet(to_parquet(gap))


def test_no_thread_of_arrows_keeps_the_bytes_of_a_table():
    # Such a thread gives them back when it likes, and aborts a program that has ended by then.
    last_holders = []

    class Watched(bytes):
        def __del__(self) -> None:
            last_holders.append(threading.get_ident())

    parquet = to_parquet(make_table(ROWS))
    for _ in range(50):
        from_parquet(Watched(parquet))
    assert last_holders == [threading.get_ident()] * 50
