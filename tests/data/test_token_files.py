"""Tokens of other programs become stores, copied or left where they are, and are written again."""

import hashlib
import json
import os
import struct
from itertools import chain
from pathlib import Path

import megatron_files
import numpy as np
import pytest
from small_corpora import make_texts, whole_table, write_jsonl

from fugaku_jax.data import token_blocks, token_files
from fugaku_jax.data.build import build_store, choose_tokenizer
from fugaku_jax.data.inputs import InputSet
from fugaku_jax.data.store import Store
from fugaku_jax.data.tokenizer import Tokenizer
from fugaku_jax.data.verify import verify_store
from fugaku_jax.errors import InputError
from fugaku_jax.interop.megatron_data import write_indexed

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


@pytest.fixture(scope="module")
def store(tmp_path_factory, tokenizer) -> Store:
    """A store of two sets, in small files."""
    folder = tmp_path_factory.mktemp("store")
    counts = {"ja": 120, "en": 60}
    sets = [
        InputSet(name, (write_jsonl(folder / f"{name}.jsonl", make_texts(count, seed=count)),))
        for name, count in counts.items()
    ]
    build_store(str(folder / "out"), sets, tokenizer, validation=0.1)
    return Store.open(str(folder / "out"))


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


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"path": "/"}, "there is no such file"),
        ({"path": "a\0b"}, "there is no such file"),
        ({"path": "FIFO"}, "there is no such file"),
        ({"path": "OTHER"}, "other.bin are not those that the store was made of"),
        ({"dtype": "<f4"}, "of a kind that no token file has"),
        ({"dtype": "|O"}, "of a kind that no token file has"),
        ({"offset": -4}, "of a kind that no token file has"),
        ({"offset": 4}, "put the whole file back"),
        ({"dtype": "<i2"}, "are not those that the store was made of"),
        ({"more": 1}, r"store\.json is corrupt"),
    ],
)
def test_a_store_that_leads_elsewhere_tells_nothing(
    tmp_path, tokenizer, documents, changes, sentence
):
    path = write("int32", tmp_path, documents)
    build(tmp_path, path, tokenizer, in_place=True, validation=0)
    os.mkfifo(tmp_path / "fifo")
    other = tmp_path / "other.bin"
    other.write_bytes(bytes(path.with_suffix(".bin").stat().st_size))
    names = {"FIFO": str(tmp_path / "fifo"), "OTHER": str(other)}
    header = tmp_path / "s" / "store.json"
    said = json.loads(header.read_text())
    place = said["sets"][0]["train"]["place"]
    place |= {name: names.get(value, value) for name, value in changes.items()}
    header.write_text(json.dumps(said))
    with pytest.raises(InputError, match=sentence):
        Store.open(str(tmp_path / "s")).read(0, "train", np.array([0]), 8)


@pytest.mark.parametrize("split", ["train", "validation"])
def test_what_is_written_for_megatron_reads_as_the_format_says(
    tmp_path, store, data_program, split
):
    code, said = data_program("to-megatron", store.url, tmp_path / "out", "--split", split)
    names = [each.name for each in store.sets]
    assert (code, said.split()) == (None, [str(tmp_path / "out" / f"{n}.idx") for n in names])
    for number, each in enumerate(store.sets):
        documents = megatron_files.read(tmp_path / "out" / each.name)
        table = whole_table(store, split, number)
        assert [len(document) for document in documents] == table["length"].to_pylist()
        count = getattr(each, split).tokens
        assert joined(documents) == store.read(number, split, np.array([0]), count)[0].tolist()
    assert len(list((tmp_path / "out").iterdir())) == 2 * len(names)


def test_a_store_goes_to_megatron_and_comes_back(tmp_path, store, data_program):
    data_program("to-megatron", store.url, tmp_path / "out")
    (tmp_path / "tokenizer.model").write_bytes(store.tokenizer().model_bytes)
    paths = [tmp_path / "out" / f"{each.name}.idx" for each in store.sets]
    back = str(tmp_path / "back")
    options = ("--tokenizer", tmp_path / "tokenizer.model", "--validation", 0, "--in-place")
    data_program("build", *paths, "--out", back, *options)
    for mine, its in zip(store.sets, Store.open(back).sets, strict=True):
        assert (mine.train.tokens_root, mine.train.bytes) == (
            its.train.tokens_root,
            its.train.bytes,
        )


@pytest.mark.parametrize(("vocab_size", "size"), [(65_499, 2), (65_500, 4)])
def test_tokens_of_a_large_vocabulary_have_32_bits(tmp_path, store, monkeypatch, vocab_size, size):
    monkeypatch.setattr(Store, "vocab_size", vocab_size)
    for path, each in zip(write_indexed(store, tmp_path, "train"), store.sets, strict=True):
        assert path.with_suffix(".bin").stat().st_size == size * each.train.tokens
        assert len(megatron_files.read(path.with_suffix(""))) == each.train.documents


def index_of(**changes: object) -> bytes:
    """An `.idx` of two documents of 3 and 2 tokens of 4 bytes, with parts of it changed."""
    values = {
        "magic": b"MMIDIDX\0\0",
        "version": 1,
        "code": 4,
        "counts": (2, 3),
        "sizes": [3, 2],
        "before": [0, 12],
        "begins": [0, 1, 2],
        **changes,
    }
    head = struct.pack("<9sQBQQ", *list(values.values())[:3], *values["counts"])
    lists = zip(("<i4", "<i8", "<i8"), list(values.values())[4:], strict=True)
    return head + b"".join(np.array(each, dtype).tobytes() for dtype, each in lists)


@pytest.mark.parametrize(
    ("index", "sentence"),
    [
        (b"", "this is no `.idx` of Megatron-LM's"),
        (index_of(magic=b"MMIDIDX\0\1"), "this is no `.idx` of Megatron-LM's"),
        (index_of()[:33], "this is no `.idx` of Megatron-LM's"),
        (index_of(version=2), "has format version 2, this program reads 1"),
        (index_of(code=7), "data type 7 that its tokens are floats"),
        (index_of(code=0), "data type 0 that its tokens are of no known type"),
        (index_of(counts=(2**60, 3)), "1,152,921,504,606,846,976 sequences and 3 entries"),
        (index_of(counts=(2, 2**64 - 1)), "it is cut short or no list of tokens"),
        (index_of(counts=(2, 0), begins=[]), "0 entries for documents"),
        (index_of()[:-1], "has 81 bytes where 2 sequences and 3 entries for documents need 82"),
        (index_of() + b"\0\0", "has 84 bytes"),
        (index_of(sizes=[3, 2**31 - 1]), "sequence 1 is of 2147483647 tokens from byte 12"),
        (index_of(sizes=[-1, 2]), "sequence 0 is of -1 tokens .* which cannot be"),
        (index_of(sizes=[3, 3]), "sequence 1 is of 3 tokens .* of a `.bin` of 20 bytes, which"),
        (index_of(sizes=[3, 1]), "its sequences have 16 bytes, but .*t.bin has 20"),
        (index_of(before=[0, 8]), "from byte 8, not from byte 12 where the one before ends"),
        (index_of(before=[0, -12]), "from byte -12 of a `.bin` of 20 bytes, which cannot be"),
        (index_of(before=[0, 2**62]), "which cannot be"),
        (index_of(begins=[0, 2, 1]), "its documents are sequences 0 to 1 of 0 to 2"),
        (index_of(begins=[1, 1, 2]), "its documents are sequences 1 to 2 of 0 to 2"),
        (index_of(counts=(2, 4), begins=[0, 2, 1, 2]), "document 1 goes from sequence 2 to 1"),
        (index_of(begins=[0, 5, 2]), "document 0 goes from sequence 0 to 5 of 2, which cannot be"),
        (
            index_of(begins=[0, -1, 2]),
            "document 0 goes from sequence 0 to -1 of 2",
        ),
        (index_of(counts=(0, 1), sizes=[], before=[], begins=[0]), "have 0 bytes, but"),
        (index_of(), "document 1 ends with token 3, not with 2, which ends documents"),
    ],
    ids=lambda each: "" if isinstance(each, bytes) else each,
)
@pytest.mark.parametrize("in_place", [False, True], ids=["copied", "in place"])
def test_a_wrong_index_gets_a_sentence(tmp_path, tokenizer, index, sentence, in_place):
    (tmp_path / "t.idx").write_bytes(index)
    (tmp_path / "t.bin").write_bytes(np.array([5, 4, 3, 6, 2], "<i4").tobytes())
    with pytest.raises(InputError, match=sentence):
        build(tmp_path, tmp_path / "t.idx", tokenizer, in_place=in_place)
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("array", "sentence"),
    [
        (np.zeros((2, 2), np.int32), r"holds <i4 of shape \[2, 2\]"),
        (np.zeros(3, np.float32), "holds <f4 of"),
        (np.zeros(3, ">i4"), "holds >i4 of"),
        (np.array([5, {}], object), r"holds \|O of"),
        (np.array([5, 320, 2], np.int64), "document 1 holds token 320, but .* from 0 to 319"),
        (np.array([5, 2, -1, 2], np.int64), "document 2 holds token -1"),
        (np.array([5, 2, 6], np.int64), "document 2 ends with token 6"),
        (np.array([], np.int64), "holds no document"),
    ],
)
@pytest.mark.parametrize("in_place", [False, True])
def test_a_wrong_array_gets_a_sentence(tmp_path, tokenizer, array, sentence, in_place):
    np.save(tmp_path / "t.npy", array)
    with pytest.raises(InputError, match=sentence):
        build(tmp_path, tmp_path / "t.npy", tokenizer, in_place=in_place)


def test_an_array_that_is_cut_or_none_gets_a_sentence(tmp_path, tokenizer):
    path = tmp_path / "t.npy"
    np.save(path, np.array([5, 2], np.int64))
    for data, sentence in (
        (path.read_bytes()[:-1], r"has 143 bytes where its header says 144"),
        (b"\x93NUMPY\1\0\6\0import", "this is no `.npy` file of tokens"),
        (b"PK\3\4", "this is no `.npy` file of tokens"),
    ):
        path.write_bytes(data)
        with pytest.raises(InputError, match=sentence):
            build(tmp_path, path, tokenizer)


def test_what_cannot_be_asked_of_tokens_is_refused(tmp_path, tokenizer, documents):
    path = write("int32", tmp_path, documents)
    text = write_jsonl(tmp_path / "a.jsonl", ["a"])
    with pytest.raises(InputError, match=r"cannot be trained on tokens \(.*t\.idx\)"):
        choose_tokenizer("train:300", [InputSet("set", (path,))], "stop")
    with pytest.raises(InputError, match=r"no input is a file of tokens"):
        build(tmp_path, text, tokenizer, in_place=True)
    sets = [InputSet("set", (path, text))]
    with pytest.raises(InputError, match=r"set set: of several files"):
        build_store(str(tmp_path / "s"), sets, tokenizer, in_place=True)
    with pytest.raises(InputError, match="--end-of-document: must be a token, from 0 to 319"):
        build(tmp_path, path, tokenizer, end_of_document=320)
    path.with_suffix(".bin").unlink()
    with pytest.raises(InputError, match=r"t\.bin: there is no such file"):
        build(tmp_path, path, tokenizer)


def test_another_token_may_end_documents(tmp_path, tokenizer, documents):
    path = write("uint16", tmp_path, [[*each[:-1], 1] for each in documents])
    text = write_jsonl(tmp_path / "a.jsonl", TEXTS)
    roots = set()
    for each in (path, text):
        store = build(tmp_path, each, tokenizer, end_of_document=1, validation=0)
        roots.add(store.sets[0].train.tokens_root)
        assert store.end_of_document == 1
    assert len(roots) == 1


@pytest.mark.parametrize("in_place", [False, True])
def test_tokens_that_are_no_text_need_no_model(tmp_path, data_program, in_place):
    rng = np.random.default_rng(0)
    documents = [[*rng.integers(1, 70_000, rng.integers(0, 90)).tolist(), 0] for _ in range(40)]
    path, out = write("int32", tmp_path, documents), str(tmp_path / "s")
    options = ("--tokenizer", "numbers:70000", "--end-of-document", 0, "--validation", 0)
    data_program("build", path, "--out", out, *options, *["--in-place"][:in_place])
    store = Store.open(out)
    assert (store.vocab_size, store.end_of_document) == (70_001, 0)
    assert tokens_of(store, "train").tolist() == joined(documents)
    tokenizer, document = store.tokenizer(), documents[3]
    spelled = "".join(f"<{token}>" for token in document[:-1])
    assert tokenizer.decode(document) == spelled
    assert tokenizer.encode(spelled) == document[:-1]
    sha256 = hashlib.sha256(spelled.encode()).hexdigest()
    assert whole_table(store, "train")["sha256"][3].as_py() == sha256
    assert list(verify_store(out)) == []


@pytest.mark.parametrize(
    ("choice", "end", "sentence"),
    [
        ("numbers:9", None, "numbers:9: needs --end-of-document"),
        ("numbers:9", 9, "must be a token, from 0 to 8, got 9"),
        ("numbers:1", 0, "must be from 2 to 1,000,000 tokens"),
        ("numbers:2000000", 0, "must be from 2 to 1,000,000 tokens"),
        ("numbers:", 0, "VOCAB must be a whole number, as in numbers:8192"),
        ("numbers:٣", 0, "VOCAB must be a whole number"),
    ],
)
def test_wrong_numbers_get_a_sentence(choice, end, sentence):
    with pytest.raises(InputError, match=sentence):
        choose_tokenizer(choice, [], "stop", end)


def build(folder: Path, path: Path, tokenizer: Tokenizer, **options: object) -> Store:
    """A store of one set."""
    build_store(str(folder / "s"), [InputSet("set", (path,))], tokenizer, **options)
    return Store.open(str(folder / "s"))
