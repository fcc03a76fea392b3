"""`trace.py text` finds a text in the training data, with the steps that read it."""

import html
import json
import re
import sys

import numpy as np
import pytest

from fugaku_jax.data.store import Store
from fugaku_jax.errors import InputError
from fugaku_jax.run.identity import claim_run_dir, run_identity
from fugaku_jax.run.metrics import METRICS_FILE
from fugaku_jax.tracing.answer_pages import text_page
from fugaku_jax.tracing.matches import traced_text
from fugaku_jax.tracing.page import write_page
from fugaku_jax.tracing.rows import traced_step
from fugaku_jax.tracing.text_index import TextIndex, build_index
from fugaku_jax.tracing.traced_run import TracedRun

TAKEN = 5


@pytest.fixture(scope="module")
def store(store_path):
    return Store.open(str(store_path))


@pytest.fixture(scope="module")
def index(store, tmp_path_factory):
    """In shards so small that most documents are cut; sorted by two threads."""
    folder = tmp_path_factory.mktemp("index")
    counted = []
    build_index(store, folder, 2, counted.append, shard_tokens=500)
    assert sum(counted) == sum(each.train.tokens for each in store.sets)
    return TextIndex(folder, store)


@pytest.fixture
def run(store, config, tmp_path):
    """One that has taken some of its steps."""
    claim_run_dir(tmp_path / "run", config, store, run_identity(config, store))
    lines = "".join(json.dumps({"step": n, "loss": 1.0}) + "\n" for n in range(1, TAKEN + 1))
    (tmp_path / "run" / METRICS_FILE).write_text(lines)
    return TracedRun(tmp_path / "run")


def all_tokens(store):
    return [
        store.read(i, "train", np.array([0]), each.train.tokens)[0].tolist()
        for i, each in enumerate(store.sets)
    ]


def test_tokens_are_found_where_a_plain_search_finds_them(store, index):
    data, random = all_tokens(store), np.random.default_rng(3)
    for _ in range(30):
        mine = data[random.integers(0, len(data))]
        start, length = random.integers(0, len(mine) - 5), random.integers(1, 5)
        wanted = mine[start : start + length]
        places = [
            (number, i)
            for number, tokens in enumerate(data)
            for i in range(len(tokens))
            if tokens[i : i + length] == wanted
        ]
        found = index.find(np.array(wanted, np.int32), most=10**6)
        # What lies across the end of a shard is not found as one.
        assert set(found.places) <= set(places)
        assert len(found.places) == found.count >= len(places) - 60
        assert index.longest(np.array(wanted, np.int32))[-1] == 1


def test_a_part_of_a_document_is_traced_to_it_and_to_the_steps_that_read_it(run, index):
    step = next(
        (step, row, span)
        for step in range(1, TAKEN + 1)
        for row in traced_step(run, step)
        for span in row.spans
        if span.characters >= 15
    )
    _, row, span = step
    found = traced_text(run, index, f"ξξξ{span.text}ξξξ", shortest=3)
    best = max(found.spans, key=lambda each: each.tokens)
    assert best.text in span.text
    (origin,) = [each for each in best.documents if each.document == span.document]
    assert (origin.source, origin.licence, origin.set) == (span.source, span.licence, row.set)
    # The oracle: all rows of all steps.
    for each in origin.steps:
        assert any(
            span.document == other.document for row in traced_step(run, each) for other in row.spans
        )
    assert step[0] in origin.steps
    assert all(1 <= each <= TAKEN for each in origin.steps)
    assert found.share_by_source[span.source] >= len(best.text) / (len(span.text) + 6) - 1e-9
    assert 0 < found.share_found < 1


def test_a_page_shows_the_text_with_its_spans_documents_and_steps(run, index, tmp_path):
    span = max((s for row in traced_step(run, 2) for s in row.spans), key=lambda s: s.characters)
    text = f"<b>{span.text}</b>"
    found = traced_text(run, index, text, shortest=3)
    write_page(tmp_path / "page.html", text_page(run, found))
    page = (tmp_path / "page.html").read_text()
    assert "<b>" not in page
    (shown,) = re.findall('<p class="text">(.*?)</p>', page, re.DOTALL)
    assert html.unescape(re.sub("<[^>]*>", "", shown)) == text == found.text
    assert page.count("<section") == len(found.spans) > 0
    assert span.document in page
    with pytest.raises(InputError, match=r"--html .*cannot be written"):
        write_page(tmp_path / "nowhere" / "page.html", text_page(run, found))


@pytest.mark.parametrize("text", ["", "ξξξ", "𠮷𠮷𠮷𠮷", "\n\n"])
def test_a_text_that_stands_nowhere_has_no_spans(run, index, text):
    found = traced_text(run, index, text, shortest=3)
    assert (found.spans, found.share_found) == ((), 0.0)


def test_spans_are_rarest_first_lie_in_no_other_and_split_no_word(run, index):
    documents = {
        span.document: span.text
        for step in range(1, 9)
        for row in traced_step(run, step)
        for span in row.spans
    }
    text = "".join(each[3:60] for each in sorted(documents.values())[:12])
    found = traced_text(run, index, text, shortest=2)
    assert len(found.spans) > 3
    assert [each.count for each in found.spans] == sorted(each.count for each in found.spans)
    for each in found.spans:
        end = each.first_character + len(each.text)
        assert text[each.first_character : end] == each.text
        before, after = text[: each.first_character][-1:], text[end:][:1]
        for one, other in ((before, each.text[0]), (each.text[-1], after)):
            is_ascii = one and other and (one + other).isascii()
            assert not (is_ascii and one.isalnum() and other.isalnum())
        for other in found.spans:
            inside = other.first_character <= each.first_character and end <= (
                other.first_character + len(other.text)
            )
            assert other is each or not inside


def test_an_index_of_another_store_is_refused(store, tmp_path):
    build_index(store, tmp_path / "index", shard_tokens=10**6)
    said = json.loads((tmp_path / "index" / "index.json").read_text())
    (tmp_path / "index" / "index.json").write_text(json.dumps(said | {"store": "0" * 64}))
    with pytest.raises(InputError, match="this index is of another store"):
        TextIndex(tmp_path / "index", store)
    (tmp_path / "index" / "index.json").write_text(json.dumps(said | {"format": 9}))
    with pytest.raises(InputError, match="of format 9, and this program reads 1"):
        TextIndex(tmp_path / "index", store)
    with pytest.raises(InputError, match="there is no index here"):
        TextIndex(tmp_path / "nothing", store)


@pytest.mark.parametrize(
    "change",
    [
        {"shards": [{"set": 0, "start": 0, "tokens": 10**9}]},
        {"shards": [{"set": 0}]},
        {"shards": 3},
        {"token_bytes": "x"},
        {"token_bytes": 3},
        {"shards": [{"set": 2, "start": 0, "tokens": 0}]},
    ],
)
def test_a_damaged_index_is_refused(store, tmp_path, change):
    build_index(store, tmp_path, shard_tokens=10**6)
    said = json.loads((tmp_path / "index.json").read_text())
    (tmp_path / "index.json").write_text(json.dumps(said | change))
    with pytest.raises(InputError, match="the index is damaged"):
        TextIndex(tmp_path, store)


def test_without_the_library_it_is_said_what_to_install(store, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pydivsufsort", None)
    with pytest.raises(InputError, match="pydivsufsort is not installed"):
        build_index(store, tmp_path)


def test_a_folder_that_cannot_be_written_gets_a_sentence(store, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="no index can be written there"):
        build_index(store, tmp_path / "file" / "index")
