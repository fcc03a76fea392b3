"""The built-in corpus is the same every time, varied, right in its sums, and needs no cache."""

import re
from pathlib import Path

import pytest

from fugaku_jax.data import builtin
from fugaku_jax.data.generated.world import PEOPLE, TOWNS, season_of
from fugaku_jax.data.store import Store


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A built-in corpus of a twentieth of its size, with an empty cache."""
    sizes = {domain: (size / 20, weight) for domain, (size, weight) in builtin.SETS.items()}
    monkeypatch.setattr(builtin, "SETS", sizes)
    monkeypatch.setattr(builtin, "VOCAB_SIZE", 1500)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def test_it_is_built_once_and_opened_from_the_cache(small: Path):
    store = builtin.open_store("builtin")
    assert store.url.startswith(str(small / "fugaku_jax"))
    assert [(each.name, each.weight) for each in store.sets] == [
        ("ja", 544),
        ("en", 314),
        ("code", 78),
        ("math", 64),
    ]
    index = Path(store.url) / "store.json"
    written = index.stat().st_mtime_ns
    assert builtin.open_store("builtin").sha256 == store.sha256
    assert index.stat().st_mtime_ns == written
    assert [path.name for path in index.parent.parent.iterdir()] == [index.parent.name]
    assert all(each.validation.tokens for each in store.sets)

    index.write_text("damaged")
    assert builtin.open_store("builtin").sha256 == store.sha256


def test_it_works_without_a_writable_cache(small: Path, monkeypatch: pytest.MonkeyPatch):
    (small / "file").write_text("no folder can be made under a file")
    monkeypatch.setenv("XDG_CACHE_HOME", str(small / "file"))
    store = builtin.open_store("builtin")
    assert not store.url.startswith(str(small))
    assert store.sets[0].train.tokens


def test_it_works_for_a_user_without_a_home(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    places: list[Path] = []

    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    def build(place: Path) -> Store:
        places.append(place)
        return store

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    monkeypatch.setattr(builtin, "_open_or_build", build)
    monkeypatch.setattr(builtin.tempfile, "mkdtemp", lambda **_: str(tmp_path))
    assert builtin.open_store("builtin") is store
    assert places == [tmp_path]


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("domain", ["ja", "en", "math"])
def test_texts_are_the_same_every_time_and_seldom_repeat(domain: str):
    texts = [document["text"] for document in builtin.documents(domain)]
    assert texts == [document["text"] for document in builtin.documents(domain)]
    assert len(set(texts)) > 0.95 * len(texts)


@pytest.mark.usefixtures("small")
def test_sums_are_right():
    text = "\n".join(document["text"] for document in builtin.documents("math"))
    sums = re.findall(r"^(\d+) ([+×-]) (\d+) = (\d+)$", text, re.MULTILINE)
    assert len(sums) > 100
    for x, sign, y, result in sums:
        a, b = int(x), int(y)
        assert int(result) == {"+": a + b, "-": a - b, "×": a * b}[sign]


@pytest.mark.usefixtures("small")
def test_facts_are_the_same_in_both_languages_and_in_every_text():
    ja = "\n".join(document["text"] for document in builtin.documents("ja"))
    en = "\n".join(document["text"] for document in builtin.documents("en"))
    told = 0
    for town in TOWNS:
        for month in re.findall(f"問い：{town.name.ja}の.*は何月ですか。\n答え：(.*)月です。", ja):
            assert month == str(town.festival_month)
            told += 1
        for answer in re.findall(f"What is {town.name.en} known for\\?\nAnswer: (.*)\n", en):
            assert answer == f"For its {town.product.en}."
            told += 1
    assert told > 20


def test_people_and_towns_are_told_apart():
    assert len({town.name.en for town in TOWNS}) == len(TOWNS) == 24
    assert len({person.en for person in PEOPLE}) == len({person.ja for person in PEOPLE})
    assert {season_of(month).name.en for month in range(1, 13)} == {
        "spring",
        "summer",
        "autumn",
        "winter",
    }
