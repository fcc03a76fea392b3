"""A small tokenizer with Japanese, English and byte pieces, and what knows `transformers`."""

import sys
from pathlib import Path

import pytest

from fugaku_jax.data.tokenizer import Tokenizer, train

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))

TEXTS = ["むかしむかし、あるところに", "the rain in Spain stays mainly in the plain", "x = 1\n"]


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return train(TEXTS * 9, 303)
