"""Whatever byte of a store is changed, `verify` finds it and names the document."""

import dataclasses
import json
import random
import re
import shutil

import numpy as np
import pyarrow as pa
import pytest
from small_corpora import make_texts, whole_table, write_jsonl

from fugaku_jax.data import store_format
from fugaku_jax.data.build import build_store
from fugaku_jax.data.inputs import InputSet
from fugaku_jax.data.store import Store
from fugaku_jax.data.verify import verify_store
from fugaku_jax.errors import InputError
from fugaku_jax.ledger import documents


@pytest.fixture(scope="module")
def built(tmp_path_factory, tokenizer, small_blocks):  # noqa: ARG001
    """A store of 60 documents."""
    folder = tmp_path_factory.mktemp("verify")
    path = write_jsonl(folder / "texts.jsonl", make_texts(60))
    build_store(str(folder / "s"), [InputSet("set", (path,))], tokenizer, validation=0.2)
    assert list(verify_store(str(folder / "s"))) == []
    return folder / "s"


@pytest.fixture
def folder(built, tmp_path):
    """That store, to be altered."""
    return shutil.copytree(built, tmp_path / "s")


def flip(path, place, bit=0):
    data = bytearray(path.read_bytes())
    data[place] ^= 1 << bit
    path.write_bytes(data)


def file_of(folder, pattern):
    return next(folder.glob(f"build-*/0/{pattern}"))


def test_every_byte_counts(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    names = {path.relative_to(folder).as_posix().split("/", 1)[-1] for path in files}
    assert {"store.json", "tokenizer.model", "0/train.blocks.json"} <= names
    assert {"0/train/zarr.json", "0/train/c/1", "0/train.chunks/1"} <= names
    assert {"0/train.documents/2.parquet", "0/validation.documents/0.parquet"} <= names
    draw = random.Random(3)
    for path in files:
        whole = path.read_bytes()
        places = {0, len(whole) - 1, *(draw.randrange(len(whole)) for _ in range(5))}
        for place in places:
            flip(path, place, draw.randrange(8))
            try:
                assert list(verify_store(str(folder))), (path, place)
            except InputError:  # another format's number
                assert path.name == "store.json"
            path.write_bytes(whole)
    assert list(verify_store(str(folder))) == []


def test_a_changed_token_names_its_document_and_no_other(folder):
    store = Store.open(str(folder))
    table = whole_table(store, "train").to_pylist()
    tokens = store.read(0, "train", np.array([0]), store.sets[0].train.tokens)[0]
    for row in (table[0], table[len(table) // 2], table[-1]):
        # Its second token, where it lies in its file. A chunk is 64 tokens and 4 bytes more.
        place = row["start"] + 1
        shard, inside = divmod(place, 512)
        path = file_of(folder, f"train/c/{shard}")
        begin = inside // 64 * (64 * 2 + 4) + inside % 64 * 2
        assert path.read_bytes()[begin : begin + 2] == tokens[place].astype("<u2").tobytes()
        flip(path, begin)
        (damage,) = verify_store(str(folder))
        assert (damage.part, damage.set, damage.split) == ("tokens", "set", "train")
        assert damage.documents == (row["id"],)
        assert f"; documents {row['id']}" in str(damage)
        flip(path, begin)


def test_a_changed_token_names_its_document_though_the_table_is_altered_too(folder):
    store = Store.open(str(folder))
    row = whole_table(store, "train").to_pylist()[2]
    path = file_of(folder, "train.documents/0.parquet")
    table = documents.from_parquet(path.read_bytes())
    leaves = documents.leaf_hashes(table)
    place = table.schema.get_field_index("source")
    sources = pa.array(["elsewhere"] * 16)
    other = table.set_column(place, table.schema.field("source"), sources)
    path.write_bytes(documents.to_parquet(other, leaves))
    start = row["start"] + 1
    flip(file_of(folder, f"train/c/{start // 512}"), start % 512 // 64 * 132 + start % 64 * 2)
    table_damage, damage = verify_store(str(folder))
    assert (table_damage.part, len(table_damage.documents)) == ("documents", 16)
    assert (damage.part, damage.documents) == ("tokens", (row["id"],))


def test_a_damaged_checksum_names_all_documents_of_its_chunk(folder):
    flip(file_of(folder, "train/c/0"), 64 * 2 + 1)
    (damage,) = verify_store(str(folder))
    assert damage.what == "tokens 0 to 63 are not as they were written"
    spanning = Store.open(str(folder)).documents(0, "train").spanning(0, 63)
    assert list(damage.documents) == spanning["id"].to_pylist()


def test_tokens_that_were_exchanged_with_their_checksum_are_found_too(folder):
    store = Store.open(str(folder))
    # As whoever can write the store would do it.
    place = json.loads((folder / "store.json").read_text())["prefix"]
    array = store_format.open_array(store._root, store._index, 0, "train", cached=False)
    path = folder / place / "0/train/zarr.json"
    writable = store_format.ts.open(
        {"driver": "zarr3", "kvstore": f"file://{path.parent}/"}, open=True
    ).result()
    row = whole_table(store, "train").to_pylist()[20]
    old = int(array.result()[row["start"]].read().result())
    writable[row["start"]].write(old + 1).result()
    (damage,) = verify_store(str(folder))
    assert damage.documents == (row["id"],)


def test_an_altered_row_names_its_document(folder):
    store = Store.open(str(folder))
    path = file_of(folder, "train.documents/1.parquet")
    table = documents.from_parquet(path.read_bytes())
    leaves = documents.leaf_hashes(table)
    licences = pa.array(["MIT" if i == 5 else None for i in range(16)])
    place = table.schema.get_field_index("licence")
    other = table.set_column(place, table.schema.field("licence"), licences)
    path.write_bytes(documents.to_parquet(other, leaves))
    (damage,) = verify_store(str(folder))
    identity = table["id"][5].as_py()
    assert (damage.part, damage.documents) == ("documents", (identity,))
    with pytest.raises(InputError, match="file 1 have changed"):
        list(store.documents(0, "train").find(identity))


def test_damage_to_a_table_names_few_documents(folder):
    path = file_of(folder, "train.documents/0.parquet")
    ids = whole_table(Store.open(str(folder)), "train")["id"].to_pylist()
    flip(path, 200)
    (damage,) = verify_store(str(folder))
    assert 1 <= len(damage.documents) <= 4
    assert set(damage.documents) <= set(ids) | {f"row {n}" for n in range(16)}


@pytest.mark.parametrize(
    ("name", "part", "sentence"),
    [
        ("train.documents/1.parquet", "documents", r"rows 16 to 31: .* is missing"),
        ("train.blocks.json", "documents", "blocks.json is missing"),
        ("train.chunks/0", "tokens", "chunks/0 is not as it was written"),
        ("train/c/1", "tokens", r"tokens 512 to 1,023 .* not as they were written; documents "),
        ("train/zarr.json", "tokens", "cannot be read"),
        ("../tokenizer.model", "tokenizer", "tokenizer.model is missing"),
    ],
)
@pytest.mark.parametrize("cut", [False, True])
def test_what_is_missing_or_cut_short_is_told(folder, name, part, sentence, cut):
    path = file_of(folder, name)
    if cut:
        path.write_bytes(path.read_bytes()[:-3])
    else:
        path.unlink()
    found = list(verify_store(str(folder)))
    assert part in {each.part for each in found}
    assert cut or any(re.search(sentence, str(each)) for each in found), found


def test_another_store_in_its_place_has_another_root(folder, tmp_path, tokenizer):
    root = Store.open(str(folder)).sha256
    path = write_jsonl(tmp_path / "texts.jsonl", make_texts(61))
    build_store(str(folder), [InputSet("set", (path,))], tokenizer, validation=0.2)
    assert list(verify_store(str(folder))) == []
    (damage,) = verify_store(str(folder), expected_root=root)
    assert damage.part == "root"
    assert root in damage.what


def test_an_index_of_other_sizes_is_told(folder):
    path = folder / "store.json"
    index = store_format.Index.from_json(path.read_bytes(), "s")
    side = index.sets[0].train
    for change in ({"documents": side.documents + 16}, {"tokens": side.tokens - 1}):
        train = dataclasses.replace(side, **change)
        sets = (dataclasses.replace(index.sets[0], train=train),)
        path.write_bytes(dataclasses.replace(index, sets=sets).to_json())
        assert list(verify_store(str(folder)))
        with pytest.raises(
            InputError, match=r"blocks where store\.json says|build the store again"
        ):
            whole_table(Store.open(str(folder)), "train")


def test_the_program_says_what_is_altered(folder, data_program, tmp_path):
    assert data_program("verify", folder) == (0, f"{folder} is as it was written\n")
    code, out = data_program("verify", folder, "--json")
    assert (code, json.loads(out)) == (0, {"store": str(folder), "damage": []})
    flip(file_of(folder, "train/c/0"), 3)
    code, out = data_program("verify", folder)
    assert (code, out.count("\n")) == (1, 1)
    assert out.startswith("tokens of set set train: tokens 0 to 63 are not as they were written")
    code, out = data_program("verify", folder, "--json")
    assert (code, len(json.loads(out)["damage"][0]["documents"])) == (1, 1)
    with pytest.raises(InputError, match="there is no token store here"):
        data_program("verify", tmp_path / "nothing")
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / "store.json").write_text('{"format": "fugaku_jax token store", "version": 4}')
    with pytest.raises(InputError, match="has format version 4"):
        data_program("verify", folder)
