"""Runs for tests of grading: a checkpoint of untrained weights, and a store of texts of its own."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from fugaku_jax.config import Config, DataConfig, ModelConfig, OptimizerConfig, TrainingConfig
from fugaku_jax.data.build import build_store
from fugaku_jax.data.inputs import InputSet
from fugaku_jax.data.tokenizer import train
from fugaku_jax.models.layout import make_layout
from fugaku_jax.run.configuration import CONFIG_FILE
from fugaku_jax.training.checkpoint import RunCheckpoints
from fugaku_jax.training.state import init_state

TEXTS = [f"{i} wet days in {place}\n" for i in range(30) for place in ("May", "Nara", "Kobe")]
VOCAB = 303


def graded_run(
    folder: Path,
    positions: int,
    domains: Mapping[str, Sequence[str]] | None = None,
    validation: float = 0.2,
    **shape: float,
) -> Path:
    """Make a run in `folder/run`, saved at step 1, whose store is `folder/store`."""
    sets = []
    for domain, texts in (domains or {"en": TEXTS}).items():
        path = folder / f"{len(sets)}.jsonl"
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        sets.append(InputSet(domain, (path,), domain, 1.0))
    build_store(str(folder / "store"), sets, train(TEXTS, VOCAB), validation=validation)
    small = {"vocab_size": VOCAB, "n_layers": 1, "d_model": 16, "n_heads": 2} | shape
    config = Config(
        model=ModelConfig(sequence_length=positions, **small),
        optimizer=OptimizerConfig(learning_rate=1e-3),
        training=TrainingConfig(steps=1, batch_size=2),
        data=DataConfig(store=str(folder / "store")),
    )
    run = folder / "run"
    run.mkdir()
    (run / CONFIG_FILE).write_text(json.dumps(config.to_dict()))
    with RunCheckpoints(run, config.checkpoint) as checkpoints:
        layout = make_layout(config)
        checkpoints.save(1, layout, init_state(layout), {"config": config.to_dict()})
    return run
