"""A corpus with everything in it that a preparation must find, and what only looks like it."""

import random
from pathlib import Path

import pytest
from raw_corpus import write_corpus

from fugaku_jax.corpora.engines import PHASES, run_task
from fugaku_jax.corpora.plan import make_plan
from fugaku_jax.corpora.prepare import finish
from fugaku_jax.corpora.recipe import CorpusRecipe


@pytest.fixture
def prepared(tmp_path: Path):
    """A function that prepares a recipe's corpus in this process, its tasks in any order."""

    def prepare(recipe: CorpusRecipe, root: Path, out: str, seed: int | None = None) -> Path:
        plan = make_plan(recipe, tmp_path / out, root)
        for phase in PHASES:
            tasks = list(range(plan.phases[phase]))
            if seed is not None:
                random.Random(seed).shuffle(tasks)
            for task in tasks:
                run_task(plan, phase, task)
        finish(plan, 1, 0.0)
        return tmp_path / out

    return prepare


@pytest.fixture(scope="session")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `raw_corpus.write_corpus`."""
    folder = tmp_path_factory.mktemp("raw")
    write_corpus(folder)
    return folder
