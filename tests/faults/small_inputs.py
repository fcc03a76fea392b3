"""Small things that faults are planted in and that broken files are made of."""

import itertools
import json
from pathlib import Path

from fugaku_jax.config import (
    CheckpointConfig,
    Config,
    ModelConfig,
    OptimizerConfig,
    TrainingConfig,
)
from fugaku_jax.data.build import build_store
from fugaku_jax.data.builtin import documents
from fugaku_jax.data.inputs import InputSet
from fugaku_jax.data.tokenizer import Tokenizer
from fugaku_jax.data.tokenizer import train as train_tokenizer

TEXT = "むかしむかし、3 wet dogs\n\tran."


def config(family: str = "gpt2") -> Config:
    """Return a small configuration."""
    return Config(
        model=ModelConfig(
            vocab_size=97, n_layers=1, d_model=16, n_heads=2, sequence_length=32, family=family
        ),
        optimizer=OptimizerConfig(learning_rate=1e-3),
        training=TrainingConfig(steps=5, batch_size=2),
        checkpoint=CheckpointConfig(every=2),
    )


def as_json(value: object) -> bytes:
    """Return a value as JSON."""
    return json.dumps(value, ensure_ascii=False).encode()


def small_tokenizer(folder: Path) -> Tokenizer:
    """Return a tokenizer of 600 pieces, made once for a folder and those beside it."""
    path = folder.parent / "small.model"
    if not path.exists():
        texts = [each["text"] for each in itertools.islice(documents("ja"), 60)]
        path.write_bytes(train_tokenizer(texts, 800).model_bytes)
    return Tokenizer.from_file(path)


def small_store(folder: Path) -> Path:
    """Build a store of ten documents."""
    path = folder / "ja.jsonl"
    path.write_bytes(b"\n".join(as_json(x) for x in itertools.islice(documents("ja"), 10)))
    sets = [InputSet("ja", (path,), "ja", 1.0)]
    build_store(str(folder / "store"), sets, small_tokenizer(folder), validation=0.3)
    return folder / "store"
