"""Files of every kind, here and on servers, give the same documents; wrong ones a sentence."""

import dataclasses
import gzip
import io
import json
import lzma
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import boto3
import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from moto.server import ThreadedMotoServer
from prepared_corpora import decisions, documents, recipe_of, refusal
from raw_corpus import row, story, warc, wet
from remote_servers import serve

from fugaku_jax.corpora.recipe import CorpusInput, CorpusRecipe

ROOT = Path(__file__).parents[2]
TEXTS = [story(seed) for seed in range(3)]


def lines(texts: list[str]) -> bytes:
    """Texts as lines of JSON."""
    rows = (row(f"doc/{i}", text) for i, text in enumerate(texts))
    return "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in rows).encode()


def table(column: str = "text") -> bytes:
    """Texts as Parquet, in a column of some name."""
    data = io.BytesIO()
    pq.write_table(pa.table({column: TEXTS, "licence": ["CC0-1.0"] * 3}), data)
    return data.getvalue()


def pages() -> list[tuple[str, str]]:
    """Texts as pages."""
    return [(f"https://example.com/{i}", text) for i, text in enumerate(TEXTS)]


KINDS: dict[str, Callable[[], bytes]] = {
    "a.jsonl": lambda: lines(TEXTS),
    "a.jsonl.gz": lambda: gzip.compress(lines(TEXTS)),
    "a.jsonl.zst": lambda: zstandard.compress(lines(TEXTS)),
    "a.jsonl.xz": lambda: lzma.compress(lines(TEXTS)),
    "a.parquet": table,
    "a.txt": lambda: TEXTS[0].encode(),
    "a.warc": lambda: warc(pages(), compressed=False),
    "a.warc.gz": lambda: warc(pages()),
    "a.wet": lambda: wet(pages(), compressed=False),
    "a.wet.gz": lambda: wet(pages()),
}


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_file_gives_the_same_texts(tmp_path, prepared, name):
    (tmp_path / name).write_bytes(KINDS[name]())
    out = prepared(recipe_of(tmp_path, name, licence="CC0-1.0"), tmp_path, "out")
    # Of HTML and of files without a line's end alone the places of spaces and lines are their own.
    found = ["".join(each["text"].split()) for each in documents(out).values()]
    expected = TEXTS[:1] if name == "a.txt" else TEXTS
    assert found == ["".join(text.split()) for text in expected]
    report = json.loads((out / "report.json").read_bytes())
    assert report["inputs"][0]["in"]["documents"] == len(expected)


def test_files_of_several_kinds_are_one_input_and_texts_that_come_again_are_left_out(
    tmp_path, prepared
):
    for name in ("a.jsonl", "a.jsonl.xz", "a.parquet"):
        (tmp_path / name).write_bytes(KINDS[name]())
    out = prepared(recipe_of(tmp_path, "a.*"), tmp_path, "out")
    assert [each["text"].strip() for each in documents(out).values()] == [
        text.strip() for text in TEXTS
    ]
    dropped = [each for found in decisions(out).values() for each in found if each[1] == "dropped"]
    assert [stage for stage, *_ in dropped] == ["duplicates"] * 6


CUT = [name for name in KINDS if name not in ("a.jsonl", "a.txt")]


@pytest.mark.parametrize("name", CUT)
def test_a_file_that_is_cut_short_stops_in_a_sentence_or_is_listed(tmp_path, prepared, name):
    data = KINDS[name]()
    (tmp_path / name).write_bytes(data[: int(0.6 * len(data))])
    recipe = recipe_of(tmp_path, name, licence="CC0-1.0")
    sentence = refusal(recipe, tmp_path / "out")
    assert f"{tmp_path / name}" in sentence
    assert "cannot be read" in sentence
    assert sentence.endswith(".")
    if "warc" in name or "wet" in name:  # of the others not even the first line is whole
        out = prepared(dataclasses.replace(recipe, on_bad_line="skip"), tmp_path, "skipped")
        assert 0 < len(documents(out)) < 3


EMPTY = {
    "a.jsonl": b"",
    "b.jsonl": b"\n\n",
    "a.jsonl.gz": gzip.compress(b""),
    "b.jsonl.gz": b"",
    "a.jsonl.zst": zstandard.compress(b""),
    "a.jsonl.xz": lzma.compress(b""),
    "a.txt": b"",
    "a.warc.gz": b"",
    "a.wet": b"",
}


@pytest.mark.parametrize("name", EMPTY)
def test_a_file_without_a_document_stops_in_a_sentence_or_is_listed(tmp_path, prepared, name):
    (tmp_path / name).write_bytes(EMPTY[name])
    (tmp_path / "whole.jsonl").write_bytes(lines(TEXTS))
    recipe = CorpusRecipe(
        tuple(CorpusInput(each, (each,), "ja") for each in (name, "whole.jsonl")),
        on_bad_line="stop",
    )
    reason = "holds no" if name != "a.txt" else "`text` is empty"
    sentence = refusal(recipe, tmp_path / "out", tmp_path)
    assert sentence.startswith(f"{tmp_path / name}:1: ")
    assert reason in sentence
    out = prepared(dataclasses.replace(recipe, on_bad_line="skip"), tmp_path, "skipped")
    assert len(documents(out)) == 3
    dropped = [each for found in decisions(out).values() for each in found if each[1] == "dropped"]
    assert [stage for stage, *_ in dropped] == ["read"]
    assert reason in dropped[0][2]


def test_a_column_of_another_name_is_told_with_those_that_are_there(tmp_path):
    (tmp_path / "a.parquet").write_bytes(table("content"))
    sentence = refusal(recipe_of(tmp_path, "a.parquet"), tmp_path / "out")
    assert sentence.endswith("has no column `text`; its columns are content, licence.")
    (tmp_path / "a.jsonl").write_text('{"content": "a", "licence": "MIT"}\n')
    sentence = refusal(recipe_of(tmp_path, "a.jsonl"), tmp_path / "lines")
    assert sentence.endswith("a.jsonl:1: has no `text`; its fields are content, licence.")


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl"])
def test_a_recipe_names_the_column_that_holds_the_text(tmp_path, prepared, name):
    rows = pa.table({"content": TEXTS, "text": ["other"] * 3, "licence": ["MIT"] * 3})
    if name == "a.parquet":
        pq.write_table(rows, tmp_path / name)
    else:
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows.to_pylist()))
    recipe = CorpusRecipe((CorpusInput("texts", (name,), "ja", text="content"),))
    found = documents(prepared(recipe, tmp_path, "out")).values()
    assert [each["text"] for each in found] == [text.rstrip() for text in TEXTS]
    other = dataclasses.replace(recipe.inputs[0], text="body")
    assert "has no " in refusal(CorpusRecipe((other,)), tmp_path / "other", tmp_path)


def test_files_of_tokens_are_no_texts(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(9))
    sentence = refusal(recipe_of(tmp_path, "a.npy"), tmp_path / "out")
    assert "says no format of texts; known are .jsonl " in sentence


RECIPE = """
from fugaku_jax.corpora.recipe import CorpusInput, CorpusRecipe

def remote():
    urls = {urls!r}
    return CorpusRecipe(
        tuple(CorpusInput(each.split(":")[0], (each,), "ja") for each in urls), on_bad_line="skip"
    )
"""


@pytest.mark.slow
def test_files_on_servers_are_prepared_as_local_ones(tmp_path, prepared):
    files = tmp_path / "files"
    files.mkdir()
    for number, name in enumerate(("web.jsonl.gz", "bucket.jsonl.gz", "hub.jsonl.gz")):
        data = lines([story(10 * number + each) for each in range(4)]) + b"no document\n"
        (files / name).write_bytes(gzip.compress(data, mtime=0))
    s3 = ThreadedMotoServer(port=0, verbose=False)
    s3.start()
    try:
        with serve(files) as address:
            endpoint = "http://{}:{}".format(*s3.get_host_and_port())
            access = {"AWS_ACCESS_KEY_ID": "none", "AWS_SECRET_ACCESS_KEY": "none"}
            access |= {"AWS_ENDPOINT_URL": endpoint, "AWS_DEFAULT_REGION": "us-east-1"}
            store = boto3.client(
                "s3",
                endpoint_url=endpoint,
                region_name="us-east-1",
                aws_access_key_id="none",
                aws_secret_access_key="none",
            )
            store.create_bucket(Bucket="texts")
            store.upload_file(str(files / "bucket.jsonl.gz"), "texts", "ja/bucket.jsonl.gz")
            urls = [f"{address}/web.jsonl.gz", "s3://texts/ja/*.jsonl.gz"]
            urls += ["hf://datasets/someone/texts/hub.*.gz"]
            recipe = tmp_path / "remote.py"
            recipe.write_text(RECIPE.format(urls=urls))
            command = [sys.executable, str(ROOT / "launch/data.py"), "prepare", str(recipe)]
            command += ["--out", str(tmp_path / "remote"), "--workers", "1"]
            home = {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "hub")}
            subprocess.run(command, check=True, env=os.environ | access | home)
    finally:
        s3.stop()
    names = {"http": "web", "s3": "bucket", "hf": "hub"}
    local = [CorpusInput(kind, (f"{name}.jsonl.gz",), "ja") for kind, name in names.items()]
    right = prepared(CorpusRecipe(tuple(local), on_bad_line="skip"), files, "local")
    assert documents(tmp_path / "remote") == documents(right)
    assert len(documents(right)) == 12
    # What is told of a line tells of the URL, not of the copy.
    assert {each for each in decisions(tmp_path / "remote") if each.endswith(":5")} == {
        f"{address}/web.jsonl.gz:5",
        "s3://texts/ja/bucket.jsonl.gz:5",
        "hf://datasets/someone/texts/hub.jsonl.gz:5",
    }


def test_what_cannot_be_reached_gets_a_sentence_with_its_url(tmp_path, prepared):
    memory = fsspec.filesystem("memory")
    memory.pipe("/texts/a.jsonl.gz", gzip.compress(lines(TEXTS)))
    memory.pipe("/texts/bad.parquet", table("content"))

    def recipe(url: str) -> CorpusRecipe:
        return CorpusRecipe((CorpusInput("texts", (url,), "ja"),))

    out = prepared(recipe("memory://texts/*.jsonl.gz"), tmp_path, "remote")
    assert [each["text"] for each in documents(out).values()] == [each.strip() for each in TEXTS]
    sentence = refusal(recipe("memory://texts/bad.parquet"), tmp_path / "bad")
    assert sentence.startswith("input memory:///texts/bad.parquet: has no column `text`")
    gone = refusal(recipe("memory://nowhere/a.jsonl"), tmp_path / "gone")
    assert gone == "input texts: there is no file memory://nowhere/a.jsonl."
    with serve(tmp_path) as address:
        gone = refusal(recipe(f"{address}/a.jsonl"), tmp_path / "gone")
        assert gone == f"input texts: there is no file {address}/a.jsonl."
    unknown = refusal(recipe("gopher://texts/a.jsonl"), tmp_path / "unknown")
    assert unknown.startswith("input gopher://texts/a.jsonl: cannot be reached: ")
