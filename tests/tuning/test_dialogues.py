"""Files of dialogues in the shapes that people share, and what is none."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from fugaku_jax.data.corpus import BadLine
from fugaku_jax.errors import InputError
from fugaku_jax.tuning.dialogues import Dialogue, Message, read_dialogues

ASKED, ANSWERED = "日本で一番高い山は?", "富士山です。😀"
SAID = (Message("user", ASKED), Message("assistant", ANSWERED))
SHAPES = {
    "OpenAI": {
        "messages": [
            {"role": "user", "content": ASKED},
            {"role": "assistant", "content": ANSWERED},
        ]
    },
    "ShareGPT": {
        "conversations": [{"from": "human", "value": ASKED}, {"from": "gpt", "value": ANSWERED}]
    },
    "utterances": {
        "utterances": [{"name": "user", "text": ASKED}, {"name": "agent", "text": ANSWERED}]
    },
    "Alpaca": {"instruction": ASKED, "input": "", "output": ANSWERED},
    "Alpaca without input": {"instruction": ASKED, "output": ANSWERED},
    "Dolly": {"instruction": ASKED, "response": ANSWERED},
    "pairs": {"prompt": ASKED, "completion": ANSWERED},
    "questions": {"question": ASKED, "answer": ANSWERED},
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet"])
def test_every_shape_in_every_format_is_the_same_dialogue(tmp_path, shape, ending):
    path = tmp_path / f"talk{ending}"
    row = SHAPES[shape] | {"id": "a", "licence": "CC0-1.0", "source": "mine"}
    line = (json.dumps(row) + "\n\n").encode()
    if ending == ".parquet":
        pq.write_table(pa.Table.from_pylist([row]), path)
    elif ending.endswith(".gz"):
        path.write_bytes(gzip.compress(line))
    elif ending.endswith(".zst"):
        path.write_bytes(zstandard.compress(line))
    else:
        path.write_bytes(line)
    assert list(read_dialogues(path)) == [Dialogue("a", SAID, "mine", "CC0-1.0")]


def test_what_an_instruction_is_carried_out_on_stays_apart(tmp_path):
    path = tmp_path / "alpaca.jsonl"
    path.write_text(json.dumps({"instruction": "訳して", "input": "yes", "output": "はい"}))
    (found,) = read_dialogues(path)
    assert found.messages == (Message("user", "訳して", "yes"), Message("assistant", "はい"))
    assert found.id == "alpaca.jsonl:1"


def _messages(*roles: str, content: object = "x") -> dict:
    return {"messages": [{"role": role, "content": content} for role in roles]}


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (_messages("user", "wizard"), "the role 'wizard' is unknown"),
        (_messages("user"), "nobody answers"),
        (_messages("user", "assistant", content=" "), "message 1 is an empty message of the user"),
        ({"prompt": "x", "completion": ""}, "message 2 is an empty answer"),
        ({"prompt": "x", "completion": 7}, "`completion` must be a string, got int"),
        ({"text": "x"}, "holds no dialogue: its fields are text"),
        ({"messages": ["x"]}, "a message must be an object"),
        (["x"], "must be a JSON object"),
    ],
)
def test_a_line_that_is_no_dialogue_is_told_by_its_number(tmp_path, row, says):
    path = tmp_path / "talk.jsonl"
    path.write_text(json.dumps(SHAPES["pairs"]) + "\n" + json.dumps(row) + "\n")
    good, bad = read_dialogues(path)
    assert isinstance(good, Dialogue)
    assert isinstance(bad, BadLine)
    assert bad.sentence.startswith(f"{path}:2: {says}")


def test_a_file_that_cannot_be_read_is_a_sentence(tmp_path):
    with pytest.raises(InputError, match="there is no such file"):
        list(read_dialogues(tmp_path / "none.jsonl"))
    (tmp_path / "talk.csv").write_text("")
    with pytest.raises(InputError, match="the ending must be one of"):
        list(read_dialogues(tmp_path / "talk.csv"))
    (tmp_path / "talk.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(InputError, match=r"talk\.parquet: cannot be read behind line 0"):
        list(read_dialogues(tmp_path / "talk.parquet"))
