"""A store's Croissant metadata are read by mlcroissant as what the store holds."""

import hashlib
import json
import shutil
from collections import Counter

import mlcroissant
import pyarrow as pa
import pytest
import rdflib
from small_runs import LLAMA, TEXTS, make_run
from store_of_format_1 import make_format_1

from fugaku_jax.data.build import build_store
from fugaku_jax.data.inputs import InputSet
from fugaku_jax.data.store import Store
from fugaku_jax.errors import InputError
from fugaku_jax.interop import croissant as module
from fugaku_jax.interop.croissant import Publication, croissant, write_croissant
from fugaku_jax.interop.hf import export_run
from fugaku_jax.interop.licences import licence_link
from fugaku_jax.ledger import documents
from fugaku_jax.run.configuration import read_config
from fugaku_jax.run.going_back import GoingBack, record_going_back
from fugaku_jax.run.identity import run_identity, write_ledger

CROISSANT = rdflib.Namespace("http://mlcommons.org/croissant/")
PROV = rdflib.Namespace("http://www.w3.org/ns/prov#")
SDO = rdflib.Namespace("https://schema.org/")
LICENCES = ("CC-BY-SA-4.0", "see [/terms] 川", None, "mit")
SHEET = Publication("物語 \n of <all> kinds", creator="Someone", date="2026-01-31")


@pytest.fixture(scope="module")
def built(store, tmp_path_factory):
    """A store of two sets whose tables are in eleven files and more, as `croissant.json` says."""
    folder = tmp_path_factory.mktemp("croissant")
    sets = []
    for name, count in (("物 語", 200), ("b|c", 30)):
        rows = [
            {
                "id": f"{name}/{i}",
                "text": f"{TEXTS[i % 3]} {i}",
                "source": f"source {i % 5}",
                "licence": LICENCES[i % 4],
                "decisions": "normalised" if i % 2 else None,
            }
            for i in range(count)
        ]
        path = folder / f"{count}.jsonl"
        path.write_text("\n".join(json.dumps({k: v for k, v in r.items() if v}) for r in rows))
        sets.append(InputSet(name, (path,), "ja", 1.5))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(documents, "BLOCK_ROWS", 16)
        build_store(str(folder / "s"), sets, store.tokenizer(), validation=0.1)
        found = Store.open(str(folder / "s"))
        write_croissant(found, SHEET)
        yield folder / "s", found


def table(store, index, split):
    return pa.concat_tables(store.documents(index, split).tables())


def test_mlcroissant_finds_no_fault_and_reads_the_document_table(built):
    folder, store = built
    read = mlcroissant.Dataset(folder / "croissant.json")
    issues = read.metadata.ctx.issues
    assert issues.errors == set()
    assert all("is recommended" in warning for warning in issues.warnings)
    assert read.metadata.name == SHEET.name
    assert read.metadata.date_published.isoformat().startswith("2026-01-31")
    assert len(read.metadata.record_sets) == 4
    for index in range(2):
        for split in ("train", "validation"):
            name, wanted = f"{index}/{split}", table(store, index, split).to_pylist()
            found = [
                {
                    key.removeprefix(f"{name}/"): x.decode() if isinstance(x, bytes) else x
                    for key, x in each.items()
                }
                for each in read.records(name)
            ]
            # Files come in the order of their names, 10 before 2.
            assert sorted(found, key=lambda each: each["start"]) == wanted
    assert len(wanted) > 0


def test_files_are_there_with_their_hashes(built):
    folder, store = built
    read = mlcroissant.Dataset(folder / "croissant.json")
    files = {each.content_url: each.sha256 for each in read.metadata.file_objects}
    there = [*folder.glob("build-*/**/*.parquet"), *folder.glob("build-*/tokenizer.model")]
    assert len(there) > 14
    assert files == {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in there
    }
    base = "https://example.org/ja"
    published = croissant(store, Publication("ja", base))
    objects = [each for each in published["distribution"] if each["@type"] == "cr:FileObject"]
    assert [each["contentUrl"] for each in objects] == [f"{base}/{each}" for each in files]
    assert published["url"] == base
    mlcroissant.Dataset(published)


def values(graph, node, way):
    """The values by name that a node has."""
    pairs = [
        (graph.value(each, SDO.name), graph.value(each, SDO.value))
        for each in graph.objects(node, way)
    ]
    return {str(name): value.toPython() for name, value in pairs}


def test_roots_sources_and_licences_are_said_as_rdf_reads_them(built):
    folder, store = built
    graph = rdflib.Graph().parse(folder / "croissant.json", format="json-ld")
    dataset = graph.value(None, rdflib.RDF.type, SDO.Dataset)
    assert values(graph, dataset, SDO.identifier) == {"root (sha256)": store.sha256}
    for index, each in enumerate(store.sets):
        records = next(
            node
            for node in graph.subjects(rdflib.RDF.type, CROISSANT.RecordSet)
            if str(node).endswith(f"/{index}/train")
        )
        roots = {name: getattr(each.train, name) for name in ("documents_root", "tokens_root")}
        assert values(graph, records, SDO.identifier) == roots
        said = values(graph, records, SDO.additionalProperty)
        assert (said["domain"], said["weight"]) == ("ja", 1.5)
        assert (said["documents"], said["tokens"]) == (each.train.documents, each.train.tokens)
    wanted = Counter(
        (f"source {i % 5}", licence_link(LICENCES[i % 4])) for n in (200, 30) for i in range(n)
    )
    found = {}
    for entity in graph.objects(dataset, PROV.wasDerivedFrom):
        assert graph.value(entity, rdflib.RDF.type) == PROV.Entity
        key = str(graph.value(entity, PROV.label)), str(graph.value(entity, SDO.license))
        found[key] = values(graph, entity, SDO.additionalProperty)["documents"]
    assert found == wanted
    licences = {str(each) for each in graph.objects(dataset, SDO.license)}
    assert licences == {
        *("https://spdx.org/licenses/CC-BY-SA-4.0", "https://spdx.org/licenses/MIT"),
        *("see [/terms] 川", "unknown"),
    }
    activity = graph.value(dataset, PROV.wasGeneratedBy)
    assert str(graph.value(activity, PROV.used)).endswith("/tokenizer.model")


def test_more_sources_than_are_named_are_counted_together(built, monkeypatch):
    _, store = built
    monkeypatch.setattr(module, "_MOST_SOURCES", 3)
    sources = croissant(store, SHEET)["prov:wasDerivedFrom"]
    counts = [(each["prov:label"], each["additionalProperty"][0]["sc:value"]) for each in sources]
    assert sum(count for _, count in counts) == 230
    assert sum(name != "other sources" for name, _ in counts) == 3
    # Their licences are told all the same.
    assert len({each["license"] for each in sources}) == 4


def test_a_model_directory_says_in_which_order_the_data_was_read(store, tmp_path):
    run = make_run(tmp_path / "run", LLAMA, store)
    write_ledger(run, run_identity(read_config(run), store))
    record_going_back(run, GoingBack(2, 5, 3, 4, "a spike"))
    export_run(run, tmp_path / "out", store, "float32", 10**9)
    path = tmp_path / "out" / "croissant.json"
    read = mlcroissant.Dataset(path)
    assert read.metadata.ctx.issues.errors == set()
    graph = rdflib.Graph().parse(path, format="json-ld")
    dataset = graph.value(None, rdflib.RDF.type, SDO.Dataset)
    training = graph.value(dataset, PROV.wasUsedBy)
    assert values(graph, training, SDO.additionalProperty) == {
        "seed": 1234,
        "sequence_length": LLAMA.sequence_length,
        "batch_size": 2,
        "steps": 7,
        "batches passed over, counted from 0": "3-4",
    }
    assert values(graph, dataset, SDO.identifier) == {"root (sha256)": store.sha256}
    card = (tmp_path / "out" / "README.md").read_text()
    assert "without the batches 3-4 (counted from 0). `croissant.json` says" in card


def test_the_program_writes_it_into_the_store(built, data_program, tmp_path):
    folder = shutil.copytree(built[0], tmp_path / "s")
    before = (folder / "croissant.json").read_text()
    _, said = data_program("croissant", folder, "--url", "https://example.org/s/")
    assert said == f"{folder}/croissant.json\n"
    found = json.loads((folder / "croissant.json").read_text())
    assert found["name"] == "s"
    assert found["creator"]["name"] == "not stated"
    assert found["distribution"][0]["contentUrl"].startswith("https://example.org/s/build-")
    assert json.loads(before)["url"].startswith("ni:///sha-256;")
    with pytest.raises(InputError, match="--date soon: must be a day"):
        data_program("croissant", folder, "--date", "soon")
    with pytest.raises(InputError, match="there is no token store here"):
        data_program("croissant", tmp_path / "nowhere")


def test_a_store_that_is_built_anew_is_not_described_as_the_old_one(store, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": TEXTS[0]}))
    for _ in range(2):
        build_store(str(tmp_path / "s"), [InputSet("a", (path,))], store.tokenizer())
        assert not (tmp_path / "s" / "croissant.json").exists()
        write_croissant(Store.open(str(tmp_path / "s")), SHEET)
        mlcroissant.Dataset(tmp_path / "s" / "croissant.json")


def test_a_store_of_format_1_is_described_by_the_columns_that_it_has(built, tmp_path):
    folder = shutil.copytree(built[0], tmp_path / "s")
    make_format_1(folder)
    old = Store.open(str(folder))
    write_croissant(old, SHEET)
    found = list(mlcroissant.Dataset(folder / "croissant.json").records("1/train"))
    wanted = table(old, 1, "train").to_pylist()
    assert [each["1/train/start"] for each in found] == [each["start"] for each in wanted]
    assert [len(each) for each in found] == [7] * len(wanted)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"name": " "}, "--name: must not be empty"),
        ({"creator": ""}, "--creator: must not be empty"),
        ({"url": "example.org/x"}, r"--url example\.org/x: must be where .* as in https:"),
        ({"url": "file:///x"}, "--url file:///x: must be where"),
        ({"date": "2026-02-30"}, "--date 2026-02-30: must be a day, as in 2026-01-31"),
        ({"date": "soon"}, "--date soon: must be a day"),
    ],
)
def test_what_nobody_can_read_is_refused(given, sentence):
    with pytest.raises(InputError, match=sentence):
        Publication(**{"name": "a"} | given)


def test_a_damaged_store_is_not_described(built, tmp_path):
    folder = shutil.copytree(built[0], tmp_path / "s")
    next(folder.glob("build-*/1/train.documents/0.parquet")).write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"the train document table of set b\|c is corrupt"):
        croissant(Store.open(str(folder)), SHEET)


@pytest.mark.parametrize(
    ("licence", "link"),
    [
        ("cc-by-sa-4.0", "https://spdx.org/licenses/CC-BY-SA-4.0"),
        ("Public Domain", "Public Domain"),
        ("MIT OR Apache-2.0", "MIT OR Apache-2.0"),
        (None, "unknown"),
    ],
)
def test_a_licence_is_where_spdx_has_it_or_what_was_said(licence, link):
    assert licence_link(licence) == link
