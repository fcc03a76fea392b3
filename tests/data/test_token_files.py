"""Tokens of other programs become stores, copied or left where they are, and are written again."""

import hashlib
from itertools import chain
from pathlib import Path

import megatron_files
import numpy as np
import pytest
from small_corpora import make_texts, whole_table, write_jsonl

from fugaku_jax.data import token_blocks, token_files
from fugaku_jax.data.build import build_store
from fugaku_jax.data.inputs import InputSet
from fugaku_jax.data.store import Store
from fugaku_jax.data.verify import verify_store
from fugaku_jax.errors import InputError

TEXTS = make_texts(150, seed=5)
pytestmark = pytest.mark.usefixtures("small_blocks")


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    """Files are looked at in many parts."""
    monkeypatch.setattr(token_files, "_DOCUMENTS", 7)
    monkeypatch.setattr(token_files, "_TOKENS", 100)
    monkeypatch.setattr(token_blocks, "_BLOCK_TOKENS", 300)


@pytest.fixture(scope="module")
def documents(tokenizer) -> list[list[int]]:
    """The tokens of `TEXTS`."""
    return [[*tokenizer.encode(text), tokenizer.end_of_document] for text in TEXTS]


def joined(documents: list[list[int]]) -> list[int]:
    """The tokens of documents one after the other."""
    return list(chain.from_iterable(documents))


def in_sequences(documents: list[list[int]]) -> list[list[list[int]]]:
    """Documents of one to three sequences each, one of them empty, and one without any."""
    cut = [[each[:3], each[3:5], each[5:]] if len(each) % 2 else [each] for each in documents]
    return [*cut[:4], [], [[], *cut[4]], *cut[5:]]


def write(kind: str, folder: Path, documents: list[list[int]]) -> Path:
    """A token file of a kind."""
    if kind.endswith("npy"):
        np.save(folder / "t.npy", np.array(joined(documents), kind.removesuffix(" npy")))
        return folder / "t.npy"
    return megatron_files.write(folder / "t", in_sequences(documents), kind)


def tokens_of(store: Store, split) -> np.ndarray:
    """All tokens of a side of the first set."""
    return store.read(0, split, np.array([0]), getattr(store.sets[0], split).tokens)[0]


KINDS = ("uint16", "int16", "int32", "int64", "uint32 npy", "int64 npy")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("in_place", [False, True])
def test_a_store_of_token_files_is_that_of_their_texts(
    tmp_path, tokenizer, documents, kind, in_place
):
    path = write(kind, tmp_path, documents)
    options = {"validation": 0, "in_place": in_place}
    build_store(str(tmp_path / "s"), [InputSet("set", (path,))], tokenizer, **options)
    texts = [InputSet("set", (write_jsonl(tmp_path / "texts.jsonl", TEXTS),))]
    build_store(str(tmp_path / "texts"), texts, tokenizer, validation=0)
    store, wanted = (Store.open(str(tmp_path / name)) for name in ("s", "texts"))
    np.testing.assert_array_equal(tokens_of(store, "train"), joined(documents))
    assert store.sets[0].train.tokens_root == wanted.sets[0].train.tokens_root
    for column in ("sha256", "start", "length", "bytes"):
        assert whole_table(store, "train")[column].equals(whole_table(wanted, "train")[column])
    assert whole_table(store, "train")["id"][3].as_py() == f"{path.name}:4"
    assert bool(list((tmp_path / "s").glob("build-*/0/train/c/*"))) != in_place
    starts = np.arange(0, len(tokens_of(store, "train")) - 90, 41)
    np.testing.assert_array_equal(
        store.read(0, "train", starts, 90), wanted.read(0, "train", starts, 90)
    )
    assert list(verify_store(str(tmp_path / "s"))) == []


def test_where_tokens_lie_does_not_change_the_root(tmp_path, tokenizer, documents):
    path, roots = write("int32", tmp_path, documents), set()
    for in_place in (False, True):
        out, options = str(tmp_path / f"s{in_place}"), {"validation": 0, "in_place": in_place}
        build_store(out, [InputSet("set", (path,))], tokenizer, **options)
        roots.add(Store.open(out).sha256)
    assert len(roots) == 1


def test_a_copy_holds_the_same_documents_out_as_a_store_of_texts(tmp_path, tokenizer, documents):
    path, held_out = write("uint16", tmp_path, documents), []
    texts = write_jsonl(tmp_path / "texts.jsonl", TEXTS)
    for each in (path, texts):
        build_store(str(tmp_path / "s"), [InputSet("set", (each,))], tokenizer, validation=0.2)
        held_out.append(whole_table(Store.open(str(tmp_path / "s")), "validation")["sha256"])
    assert held_out[0].equals(held_out[1])


@pytest.mark.parametrize(("validation", "least", "most"), [(0.2, 20, 40), (1e-9, 1, 1)])
@pytest.mark.parametrize("kind", ["int32", "uint16 npy"])
def test_in_place_the_last_documents_are_held_out(
    tmp_path, tokenizer, documents, kind, validation, least, most
):
    path = write(kind, tmp_path, documents)
    options = {"validation": validation, "in_place": True}
    build_store(str(tmp_path / "s"), [InputSet("set", (path,))], tokenizer, **options)
    store = Store.open(str(tmp_path / "s"))
    held_out = store.sets[0].validation.documents
    assert least <= held_out <= most
    np.testing.assert_array_equal(tokens_of(store, "train"), joined(documents[:-held_out]))
    np.testing.assert_array_equal(tokens_of(store, "validation"), joined(documents[-held_out:]))
    texts = TEXTS[-held_out:]
    wanted = [hashlib.sha256(text.encode()).hexdigest() for text in texts]
    assert whole_table(store, "validation")["sha256"].to_pylist() == wanted


def test_a_bit_that_flips_where_the_tokens_lie_is_told_and_named(tmp_path, tokenizer, documents):
    path = write("int32", tmp_path, documents)
    options = {"validation": 0.2, "in_place": True}
    build_store(str(tmp_path / "s"), [InputSet("set", (path,))], tokenizer, **options)
    binary = path.with_suffix(".bin")
    data = bytearray(binary.read_bytes())
    start = sum(map(len, documents[:2]))
    data[4 * start] ^= 1
    binary.write_bytes(data)
    store = Store.open(str(tmp_path / "s"))
    with pytest.raises(InputError, match=r"tokens .* in .*t\.bin are not those that the store was"):
        store.read(0, "train", np.array([start]), 1)
    store.read(0, "validation", np.array([0]), 20)
    (damage,) = verify_store(str(tmp_path / "s"))
    assert (damage.part, damage.documents) == ("tokens", ("t.idx:3",))
    binary.write_bytes(data[:-4])
    with pytest.raises(InputError, match="put the whole file back"):
        Store.open(str(tmp_path / "s"))
    binary.unlink()
    with pytest.raises(InputError, match="there is no such file"):
        Store.open(str(tmp_path / "s"))
    assert {each.part for each in verify_store(str(tmp_path / "s"))} == {"tokens"}
