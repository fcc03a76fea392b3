"""A proof shows what was in a store to whoever has its root, and nothing else passes for one."""

import copy
import hashlib
import json
import random
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from small_corpora import make_texts, whole_table

from fugaku_jax.data.build import build_store
from fugaku_jax.data.inputs import InputSet
from fugaku_jax.data.proof import check_proofs, prove
from fugaku_jax.data.store import Store
from fugaku_jax.errors import InputError, RunError
from fugaku_jax.ledger.merkle import leaf_hash

TEXTS = make_texts(90)


@pytest.fixture(scope="module")
def built(tmp_path_factory, tokenizer, small_blocks):  # noqa: ARG001
    """A store of 90 documents; each says what filters decided of it."""
    folder = tmp_path_factory.mktemp("proof")
    path = folder / "texts.jsonl"
    rows = [
        {"text": text, "id": f"文/{i}", "decisions": f"kept: {i}"} for i, text in enumerate(TEXTS)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    build_store(str(folder / "s"), [InputSet("set", (path,))], tokenizer, validation=0.3)
    return folder / "s"


@pytest.fixture
def folder(built, tmp_path):
    """That store, to be altered."""
    return shutil.copytree(built, tmp_path / "s")


def test_every_document_is_proven_and_the_proof_holds_its_row_and_its_chunks(folder):
    store = Store.open(str(folder))
    for split in ("train", "validation"):
        tokens = store.read(0, split, np.array([0]), getattr(store.sets[0], split).tokens)[0]
        for number, row in enumerate(whole_table(store, split).to_pylist()):
            proofs = json.loads(json.dumps(prove(str(folder), row["id"])))
            (proof,) = check_proofs(proofs, store.sha256)
            assert (proof.number, proof.split, proof.start) == (number, split, row["start"])
            assert proof.row.sha256 == row["sha256"]
            text = TEXTS[int(row["id"].removeprefix("文/"))]
            assert proof.row.sha256 == hashlib.sha256(text.encode()).hexdigest()
            assert proof.row.decisions == f"kept: {TEXTS.index(text)}"
            last = row["start"] + row["length"] - 1
            assert [each.number for each in proof.chunks] == [
                *range(row["start"] // 64, last // 64 + 1)
            ]
            for chunk in proof.chunks:
                part = tokens[chunk.number * 64 :][:64].astype("<u2").tobytes()
                assert chunk.leaf == leaf_hash(part).hex()


def test_the_few_lines_of_the_documentation_check_a_proof_without_this_package(folder):
    text = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    names = {}
    exec(re.search(r"```python\n(import hashlib.*?)```", text, re.DOTALL)[1], names)
    for number in (0, 3, 60, 89):
        proofs = json.loads(json.dumps(prove(str(folder), f"文/{number}")))
        names["check"](proofs, proofs["root"])
        proofs["documents"][0]["row"]["decisions"] = "dropped"
        with pytest.raises(AssertionError):
            names["check"](proofs, proofs["root"])


def leaves(value, way=()):
    """The ways to all values of JSON that are neither objects nor lists."""
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, each in items:
            yield from leaves(each, (*way, key))
    else:
        yield way


def changed(value, draw):
    if isinstance(value, str) and value:
        place = draw.randrange(len(value))
        return value[:place] + ("0" if value[place] != "0" else "1") + value[place + 1 :]
    return {None: "x"}.get(value, value + 1 if isinstance(value, int | float) else "x")


def test_a_proof_with_any_value_changed_is_refused(folder):
    root, draw = Store.open(str(folder)).sha256, random.Random(2)
    for identity in ("文/3", "文/60"):
        proofs = json.loads(json.dumps(prove(str(folder), identity)))
        for way in leaves(proofs):
            if way == ("root",):  # only tells a reader; what is checked is the root that is given
                continue
            other = copy.deepcopy(proofs)
            place = other
            for key in way[:-1]:
                place = place[key]
            place[way[-1]] = changed(place[way[-1]], draw)
            with pytest.raises((RunError, InputError)):
                check_proofs(other, root)
        for name in ("path", "chunks"):
            other = copy.deepcopy(proofs)
            other["documents"][0][name].pop()
            with pytest.raises(RunError, match=f"document {identity} was in the store"):
                check_proofs(other, root)
    with pytest.raises(RunError, match="of another store than that of root 000"):
        check_proofs(proofs, "0" * 64)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"format": "?"}, "no inclusion proof"),
        ({"store": []}, "no inclusion proof"),
        ({"documents": []}, "no inclusion proof"),
        ({"documents": {"a": 1}}, "must be a list"),
        ({"documents": [3]}, r"documents\[0\] is 3"),
        ({"documents": [{"set_index": 0}]}, r"documents\[0\]\.split is missing"),
    ],
)
def test_what_is_no_proof_gets_a_sentence(folder, change, sentence):
    proofs = prove(str(folder), "文/3")
    with pytest.raises(InputError, match=sentence):
        check_proofs(proofs | change, proofs["root"])


def test_the_program_proves_and_checks_without_the_store(folder, data_program, tmp_path):
    root = Store.open(str(folder)).sha256
    _, said = data_program("verify", folder, "--document", "文/7", "--root", root)
    assert said.startswith("document 文/7 is row ")
    _, proof = data_program("verify", folder, "--document", "文/7", "--root", root, "--json")
    path = tmp_path / "proof.json"
    path.write_text(proof)
    (folder / "store.json").unlink()
    code, again = data_program("check", path, "--root", root)
    assert (code, again) == (None, said)
    path.write_text(proof.replace("kept: 7", "kept: 8"))
    with pytest.raises(RunError, match="its row leads to another root"):
        data_program("check", path, "--root", root)
    with pytest.raises(InputError, match="--root abc: a root is 64 digits"):
        data_program("check", path, "--root", "abc")
    path.write_text(proof[:-9])
    with pytest.raises(InputError, match=r"proof\.json is no JSON"):
        data_program("check", path, "--root", root)


def test_an_id_that_is_not_there_and_another_root_get_a_sentence(folder, data_program):
    with pytest.raises(InputError, match=r"document nobody: none in .* has this id"):
        data_program("verify", folder, "--document", "nobody")
    with pytest.raises(RunError, match="another store"):
        data_program("verify", folder, "--document", "文/7", "--root", "1" * 64)


def test_a_store_whose_files_do_not_fit_together_proves_nothing(folder):
    path = next(folder.glob("build-*/0/train.chunks/0"))
    path.write_bytes(bytes(len(path.read_bytes())))
    row = next(Store.open(str(folder)).documents(0, "train").tables(["id"]))["id"][0].as_py()
    with pytest.raises(InputError, match=r"chunks/0 is corrupt; .* verify"):
        prove(str(folder), row)
