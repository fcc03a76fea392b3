"""Tokenizers are compared by the texts that a store would hold out, as SentencePiece cuts them."""

import hashlib
import json
import runpy
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from small_corpora import make_texts, whole_table, write_jsonl

from fugaku_jax.data import tokenizer as tokenizers
from fugaku_jax.data.build import build_store
from fugaku_jax.data.builtin import documents
from fugaku_jax.data.inputs import InputSet
from fugaku_jax.data.store import Store
from fugaku_jax.data.tokenizer import Tokenizer
from fugaku_jax.data.tokenizer_merge import merge, rescore
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
        ([InputSet("a", (tmp_path / "t.idx",))], 1, "holds tokens, but texts are needed"),
    ):
        with pytest.raises(InputError, match=sentence):
            compare({"a": tokenizer}, sets, held_out, 10**6)
    path.write_text("{}\n")
    with pytest.raises(InputError, match=r"a\.jsonl:1: has no `text`"):
        compare({"a": tokenizer}, [InputSet("a", (path,))], 1, 10**6)


JA, EN = ([each["text"] for each in islice(documents(x), 80)] for x in ("ja", "en"))


@pytest.fixture
def mixture(tmp_path):
    """Texts of two domains."""
    tables = []
    for name, texts in (("ja", JA), ("en", EN)):
        path = write_jsonl(tmp_path / f"{name}.jsonl", texts)
        tables.append(f'[[input]]\nname = "{name}"\ndomain = "{name}"\npaths = ["{path.name}"]\n')
    (tmp_path / "mix.toml").write_text("".join(tables))
    return tmp_path / "mix.toml"


def pieces(tokenizer: Tokenizer) -> set[str]:
    """All pieces."""
    oracle = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.model_bytes)
    return {oracle.id_to_piece(n) for n in range(oracle.vocab_size())}


def test_a_merged_tokenizer_has_the_pieces_of_each_and_spells_all(tmp_path, mixture, program):
    out = tmp_path / "merged.model"
    program("train", mixture, "--out", out, "--pieces", "ja", 800, "en", 500, "--held-out", 0.3)
    merged = Tokenizer.from_file(out)
    apart = []
    for name, size in (("ja", 800), ("en", 500)):
        lines = (tmp_path / f"{name}.jsonl").read_text().splitlines()
        texts = [json.loads(line)["text"] for line in lines]
        hashes = [hashlib.sha256(text.encode()).digest() for text in texts]
        kept = [t for t, each in zip(texts, hashes, strict=True) if each[0] >= 0.3 * 256]
        assert 40 < len(kept) < 70
        apart.append(tokenizers.train(kept, size))
    assert pieces(merged) == pieces(apart[0]) | pieces(apart[1])
    assert len(pieces(merged)) == merged.vocab_size > 800
    for text in [*JA, *EN, "混ぜた text 12\n  𠮷"]:
        assert merged.decode(merged.encode(text)) == text
    assert merged.end_of_document == apart[0].end_of_document


def test_scores_are_logarithms_of_how_often_pieces_are_used():
    merged = merge([tokenizers.train(texts, n) for texts, n in ((JA, 800), (EN, 500))])
    texts = JA * 3 + EN

    def likelihood(tokenizer: Tokenizer) -> float:
        oracle = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.exact_model_bytes)
        normal = [n for n in range(oracle.vocab_size()) if not oracle.is_byte(n) and n > 2]
        scores = {n: oracle.get_score(n) for n in normal if oracle.get_score(n) < 0}
        assert np.exp(list(scores.values())).sum() == pytest.approx(1, abs=0.01)
        return sum(scores.get(n, 0) for text in texts for n in oracle.encode(text))

    once, often = rescore(merged, texts, 1), rescore(merged, texts, 4)
    assert likelihood(once) <= likelihood(often) < 0
    oracle = sentencepiece.SentencePieceProcessor(model_proto=often.exact_model_bytes)
    ids = [n for text in texts for n in oracle.encode(text)]
    piece = oracle.piece_to_id("\u2581the")
    if piece == oracle.unk_id():
        piece = max(set(ids), key=ids.count)
    assert oracle.get_score(piece) == pytest.approx(np.log(ids.count(piece) / len(ids)), abs=0.05)


def test_pieces_for_other_domains_are_refused(tmp_path, mixture, program):
    with pytest.raises(InputError, match="--pieces: must name the domains en, ja, got ja"):
        program("train", mixture, "--out", tmp_path / "a.model", "--pieces", "ja", 310)
    with pytest.raises(InputError, match=r"domain ja: tokenizer train:310: .* need \d+ pieces"):
        program("train", mixture, "--out", tmp_path / "a", "--pieces", "ja", 310, "en", 500)
