"""Small texts, made up, that the data tests build from."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from fugaku_jax.data.store import Store
from fugaku_jax.data.store_format import SplitName

WORDS = (
    *("川", "山", "雪", "the", "river", "runs", "町へ", "行く", "12", "345"),
    *("cold\nbright", "", "  ", "quiet", "灯台。", "and"),
)


def make_texts(count: int, seed: int = 0) -> list[str]:
    """Different texts of 3 to 60 words."""
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, rng.integers(3, 60))) + str(i) for i in range(count)]


def write_jsonl(path: Path, texts: Sequence[str]) -> Path:
    """A JSONL file of texts."""
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return path


def whole_table(store: Store, split: SplitName, set_index: int = 0) -> pa.Table:
    """All rows of a document table."""
    return pa.concat_tables(store.documents(set_index, split).tables())
