"""Stores of the first format are read, and what was begun on them goes on."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pytest
from small_corpora import whole_table
from store_of_format_1 import make_format_1

from fugaku_jax.data.proof import prove
from fugaku_jax.data.store import Store
from fugaku_jax.data.store_format import SPLITS
from fugaku_jax.data.verify import verify_store
from fugaku_jax.errors import InputError


@pytest.fixture
def old(store, tmp_path):
    """The store `store` as format 1 has it."""
    folder = tmp_path / "old"
    shutil.copytree(store.url, folder)
    make_format_1(folder)
    return folder


def test_a_store_of_format_1_is_the_same_store_but_for_its_hashes(store, old):
    read = Store.open(str(old))
    # The root by the rules of then, which a run of then has in its ledger.
    assert read.sha256 == json.loads((old / "store.json").read_text())["sha256"] != store.sha256
    assert read.tokenizer().sha256 == store.tokenizer().sha256
    for number, each in enumerate(read.sets):
        for split in SPLITS:
            side = getattr(each, split)
            assert side.tokens == getattr(store.sets[number], split).tokens
            tokens = [x.read(number, split, np.array([0]), side.tokens) for x in (read, store)]
            np.testing.assert_array_equal(*tokens)
            assert whole_table(read, split, number).equals(whole_table(store, split, number))
    for table in (read.documents(0, "train"), store.documents(0, "train")):
        row = table.spanning(100, 100).to_pylist()[0]
        assert row["start"] <= 100 < row["start"] + row["length"]
        assert next(table.find(row["id"]))[1] == row
        names = pa.concat_tables(table.tables(["licence"])).column_names
        assert names == ["licence"]


def test_a_store_of_format_1_is_verified_and_proves_nothing(old):
    assert list(verify_store(str(old))) == []
    with pytest.raises(InputError, match=r"is of format 1, which has no Merkle trees"):
        prove(str(old), "ja.jsonl:1")
    place = next(old.glob("build-*/1"))
    tokens = place / "train/c/0"
    data = bytearray(tokens.read_bytes())
    data[300] ^= 1
    tokens.write_bytes(data)
    (damage,) = verify_store(str(old))
    assert (damage.part, damage.set, damage.split) == ("tokens", "en", "train")
    row = Store.open(str(old)).documents(1, "train").spanning(150, 150).to_pylist()[0]
    assert damage.documents == (row["id"],)
    table = place / "validation.documents.parquet"
    table.write_bytes(table.read_bytes()[:-1])
    assert [each.part for each in verify_store(str(old))] == ["tokens", "documents"]
