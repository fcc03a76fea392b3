"""Small texts and a small tokenizer that the data tests share."""

import pytest
from small_corpora import make_texts, write_jsonl

from fugaku_jax.data import store_format
from fugaku_jax.data import tokenizer as tokenizers
from fugaku_jax.data.build import build_store
from fugaku_jax.data.inputs import InputSet
from fugaku_jax.data.store import Store
from fugaku_jax.data.tokenizer import Tokenizer
from fugaku_jax.ledger import documents


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """A tokenizer of 320 pieces."""
    return tokenizers.train(make_texts(200), 320)


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Store:
    """A store of three sets, weights 5 : 3 : 1, about 9,000, 5,000 and 800 tokens."""
    folder = tmp_path_factory.mktemp("store")
    sets = []
    for name, weight, count in (("ja", 5.0, 160), ("en", 3.0, 90), ("math", 1.0, 16)):
        path = write_jsonl(folder / f"{name}.jsonl", make_texts(count, seed=count))
        sets.append(InputSet(name, (path,), name, weight))
    build_store(str(folder / "out"), sets, tokenizer, validation=0.1)
    return Store.open(str(folder / "out"))


@pytest.fixture(scope="module")
def small_blocks():
    """Files of few rows and few tokens, so that a small store has many."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(documents, "BLOCK_ROWS", 16)
        patch.setattr(documents, "_GROUP_ROWS", 4)
        patch.setattr(store_format, "SHARD_TOKENS", 512)
        patch.setattr(store_format, "CHUNK_TOKENS", 64)
        patch.setattr(store_format, "BLOCK_CHUNKS", 16)
        yield
