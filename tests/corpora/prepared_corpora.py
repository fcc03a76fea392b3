"""What lies in a prepared corpus, recipes without filters, and refusals."""

import json
from collections import defaultdict
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from fugaku_jax.corpora.engines import run_locally
from fugaku_jax.corpora.plan import make_plan
from fugaku_jax.corpora.recipe import CorpusInput, CorpusRecipe
from fugaku_jax.data.lines import read_lines
from fugaku_jax.errors import InputError


def documents(out: Path) -> dict[str, dict[str, str]]:
    """All documents that were kept, by their names."""
    found = {}
    for path in sorted((out / "documents").iterdir()):
        with path.open("rb") as file:
            for line in filter(None, read_lines(file, path.name)):
                document = json.loads(line)
                assert document["id"] not in found
                found[document["id"]] = document
    return found


def decisions(out: Path) -> dict[str, list[tuple[str, str, str]]]:
    """Stage, action and reason of all decisions on each document."""
    found = defaultdict(list)
    for path in sorted((out / "decisions").iterdir()):
        for each in pq.read_table(path).to_pylist():
            found[each["id"]].append((each["stage"], each["action"], each["reason"]))
    return found


def everything(out: Path) -> dict[str, bytes]:
    """All files of a prepared corpus but its timings, by their names."""
    paths = (path for path in out.rglob("*") if path.is_file() and path.name != "timings.json")
    return {str(path.relative_to(out)): path.read_bytes() for path in paths}


def recipe_of(folder: Path, path: str, licence: str | None = None, **fields) -> CorpusRecipe:
    """A recipe of one input of these files, without filters."""
    given = CorpusInput("texts", (str(folder / path),), "ja", licence=licence)
    return CorpusRecipe((given,), **fields)


def refusal(recipe: CorpusRecipe, out: Path, root: Path = Path(".")) -> str:
    """The sentence by which a preparation is refused."""
    with pytest.raises(InputError) as caught:
        run_locally(make_plan(recipe, out, root), 1, lambda *_: None)
    return str(caught.value)
