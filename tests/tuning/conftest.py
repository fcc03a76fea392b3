"""Small dialogues, and a tokenizer that can say them."""

import json
from pathlib import Path

import pytest
from talks import answer, dialogue, question

from fugaku_jax.data import tokenizer as tokenizers
from fugaku_jax.data.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """A tokenizer of 335 pieces."""
    texts = [question(n) + "\n\n### 応答:\n" + answer(n) for n in range(100)]
    return tokenizers.train([*texts, "### 指示:\n以下は、タスクを説明する指示です!"], 335)


@pytest.fixture(scope="session")
def dialogues_file(tmp_path_factory) -> Path:
    """A file of 120 dialogues of one to three turns."""
    path = tmp_path_factory.mktemp("dialogues") / "talk.jsonl"
    with path.open("w") as file:
        for number in range(120):
            each = dialogue(number, 1 + number % 3)
            messages = [{"role": m.role, "content": m.content} for m in each.messages]
            file.write(json.dumps({"id": each.id, "messages": messages}) + "\n")
    return path
