"""A store and a run small enough that training takes a second."""

import dataclasses
import itertools
import json
import runpy
import sys
from pathlib import Path

import pytest

from fugaku_jax.config import (
    CheckpointConfig,
    Config,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    TrainingConfig,
)
from fugaku_jax.data import builtin
from fugaku_jax.data.build import build_store
from fugaku_jax.data.inputs import InputSet
from fugaku_jax.data.store import Store
from fugaku_jax.data.tokenizer import train as train_tokenizer
from fugaku_jax.run.identity import claim_run_dir, run_identity

VOCAB = 1200
ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs"


@pytest.fixture(scope="session")
def recipes() -> dict[str, Config]:
    """Every recipe there is, by name."""
    return {path.stem: runpy.run_path(str(path))[path.stem]() for path in CONFIGS.glob("[a-z]*.py")}


@pytest.fixture(params=sorted(path.stem for path in CONFIGS.glob("[a-z]*.py")))
def recipe(request, recipes: dict[str, Config]) -> Config:
    """Each recipe in turn."""
    return recipes[request.param]


@pytest.fixture(scope="session")
def store_path(tmp_path_factory) -> Path:
    """A store of two domains, 60 generated documents each."""
    folder = tmp_path_factory.mktemp("runs")
    sets, texts = [], []
    for domain, weight in (("ja", 2.0), ("en", 1.0)):
        documents = list(itertools.islice(builtin.documents(domain), 60))
        texts += [document["text"] for document in documents]
        path = folder / f"{domain}.jsonl"
        path.write_text("".join(json.dumps(document) + "\n" for document in documents))
        sets.append(InputSet(domain, (path,), domain, weight))
    build_store(str(folder / "store"), sets, train_tokenizer(texts, VOCAB), validation=0.05)
    return folder / "store"


@pytest.fixture(scope="session")
def config(store_path: Path) -> Config:
    """A run of eight steps with everything on that could break a restart."""
    return Config(
        model=ModelConfig(
            vocab_size=VOCAB,
            n_layers=2,
            d_model=16,
            n_heads=2,
            sequence_length=16,
            dropout=0.1,
            attention_dropout=0.1,
        ),
        optimizer=OptimizerConfig(learning_rate=1e-2, warmup_tokens=128),
        training=TrainingConfig(
            steps=8, batch_size=4, micro_batches=2, validate_every=4, sample_tokens=4
        ),
        data=DataConfig(store=str(store_path)),
        checkpoint=CheckpointConfig(every=3),
    )


@pytest.fixture(autouse=True)
def without_charts(monkeypatch) -> None:
    """A session's report has no charts: to draw them takes as long as to trace its step."""
    monkeypatch.setattr("fugaku_jax.report.report.charts", lambda _: ())


@pytest.fixture
def change(config: Config):
    """Return the run with some fields changed: `change(training={"steps": 2})`."""

    def changed(**sections: dict) -> Config:
        parts = {
            name: dataclasses.replace(getattr(config, name), **fields)
            for name, fields in sections.items()
        }
        return dataclasses.replace(config, **parts)

    return changed


@pytest.fixture
def trace(monkeypatch, capsys):
    """Run the program in this process and return what it prints."""
    monkeypatch.syspath_prepend(ROOT / "launch")

    def run(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["trace.py", *map(str, arguments)])
        capsys.readouterr()
        runpy.run_path(str(ROOT / "launch" / "trace.py"))["main"]()
        return capsys.readouterr().out

    return run


@pytest.fixture
def begun(change, store_path, tmp_path):
    """Return the directory of a run that has taken no step, and its store."""
    config, store = change(), Store.open(str(store_path))
    claim_run_dir(tmp_path / "run", config, store, run_identity(config, store))
    return tmp_path / "run", store
