"""Tokenizers are compared by the texts that a store would hold out, as SentencePiece cuts them."""

import hashlib
import json
import runpy
import sys
from pathlib import Path

import pytest
import sentencepiece
from small_corpora import make_texts, whole_table, write_jsonl

from fugaku_jax.data import tokenizer as tokenizers
from fugaku_jax.data.build import build_store
from fugaku_jax.data.inputs import InputSet
from fugaku_jax.data.store import Store
from fugaku_jax.data.tokenizer import Tokenizer
from fugaku_jax.data.tokenizer_report import compare
from fugaku_jax.errors import InputError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def program(monkeypatch, capsys):
    """Run `launch/tokenizer.py` in this process; returns what it prints."""
    monkeypatch.syspath_prepend(ROOT / "launch")

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["tokenizer.py", *map(str, arguments)])
        capsys.readouterr()
        runpy.run_path(str(ROOT / "launch" / "tokenizer.py"))["main"]()
        return capsys.readouterr().out

    return run


@pytest.fixture(scope="module")
def larger() -> Tokenizer:
    """A tokenizer of more pieces than `tokenizer`, of other texts."""
    return tokenizers.train(make_texts(200, seed=3), 328)


def test_what_is_compared_is_what_a_store_holds_out(tmp_path, tokenizer, larger, program):
    domains = {"ja": [*make_texts(300), "珍しい字𠮷"], "en": make_texts(200, seed=8)}
    mixture, counted = "", {}
    for domain, texts in domains.items():
        path = write_jsonl(tmp_path / f"{domain}.jsonl", texts)
        mixture += f'[[input]]\nname = "{domain}"\ndomain = "{domain}"\npaths = ["{path.name}"]\n'
        build_store(str(tmp_path / domain), [InputSet(domain, (path,))], tokenizer, validation=0.3)
        table = whole_table(Store.open(str(tmp_path / domain)), "validation")
        by_hash = {hashlib.sha256(text.encode()).hexdigest(): text for text in texts}
        counted[domain] = [by_hash[each] for each in table["sha256"].to_pylist()]
    (tmp_path / "mix.toml").write_text(mixture)
    models = {tmp_path / "a.model": tokenizer, tmp_path / "b.model": larger}
    for path, model in models.items():
        path.write_bytes(model.model_bytes)
    options = ("--inputs", tmp_path / "mix.toml", "--held-out", 0.3)
    found = json.loads(program("compare", *models, *options, "--json"))
    assert list(found) == list(domains)
    for domain, texts in counted.items():
        for path, model in models.items():
            oracle = sentencepiece.SentencePieceProcessor(model_proto=model.exact_model_bytes)
            ids = [token for text in texts for token in oracle.encode(text)]
            characters = sum(map(len, texts))
            assert found[domain][str(path)] == {
                "documents": len(texts),
                "characters": characters,
                "bytes": sum(len(text.encode()) for text in texts),
                "tokens": len(ids),
                "byte_tokens": sum(map(oracle.is_byte, ids)),
                "characters_per_token": characters / len(ids),
            }
    said = program("compare", *models, *options)
    ratio = found["ja"][str(tmp_path / "b.model")]["characters_per_token"]
    assert f"{ratio:.3f}" in said


def test_pieces_are_counted_by_kind_and_by_script(tmp_path, tokenizer, program):
    path = tmp_path / "a.model"
    path.write_bytes(tokenizer.model_bytes)
    said = json.loads(program("inspect", path))
    oracle = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.model_bytes)
    pieces = range(oracle.vocab_size())
    assert said["vocab_size"] == sum(said["kinds"].values()) == len(pieces)
    assert said["kinds"]["byte"] == sum(map(oracle.is_byte, pieces)) == 256
    assert said["kinds"]["control"] == sum(map(oracle.is_control, pieces))
    assert sum(said["scripts"].values()) == said["kinds"]["normal"]
    digits = [each for each in pieces if oracle.id_to_piece(each).isdecimal()]
    assert said["scripts"]["digit"] == len(digits)
    assert said["scripts"]["cjk"] > 3
    text = "川の river 12"
    said = json.loads(program("inspect", path, "--text", text))
    assert said["ids"] == oracle.encode(text)
    assert "".join(said["pieces"]) == text
    assert said["characters_per_token"] == len(text) / len(said["ids"])


def test_what_cannot_be_compared_is_refused(tmp_path, tokenizer):
    path = write_jsonl(tmp_path / "a.jsonl", ["one"])
    for sets, held_out, sentence in (
        ([InputSet("a", (path,), "ja")], 1e-9, "domain ja: none of its documents is held out"),
        ([InputSet("a", (path,))], 0, "--held-out: must be above 0"),
        ([InputSet("a", (tmp_path / "t.idx",))], 1, "holds tokens, but texts are compared"),
    ):
        with pytest.raises(InputError, match=sentence):
            compare({"a": tokenizer}, sets, held_out, 10**6)
    path.write_text("{}\n")
    with pytest.raises(InputError, match=r"a\.jsonl:1: has no `text`"):
        compare({"a": tokenizer}, [InputSet("a", (path,))], 1, 10**6)
