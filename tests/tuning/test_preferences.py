"""Files of pairs: read in trl's shapes, packed so that the two of a pair share a row."""

import json

import numpy as np
import pytest
from talks import answer, question

from fugaku_jax.data.corpus import BadLine
from fugaku_jax.data.marked_batch import marked_batch
from fugaku_jax.data.store import Store
from fugaku_jax.errors import InputError
from fugaku_jax.tuning.build import build_dialogues
from fugaku_jax.tuning.chat_template import ChatTemplate
from fugaku_jax.tuning.dialogues import Message
from fugaku_jax.tuning.preferences import read_preferences

T = 640


def written(path, rows):
    """Write a file of JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_strings_and_messages_with_and_without_a_prompt_are_read(tmp_path):
    asked, said = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
    again, other = {"role": "user", "content": "r"}, {"role": "assistant", "content": "b"}
    rows = [
        {"prompt": "q", "chosen": "a", "rejected": "b", "id": "one", "licence": "CC0-1.0"},
        {"prompt": [asked, said, again], "chosen": [said], "rejected": [other]},
        {"chosen": [asked, said, again, said], "rejected": [asked, said, again, other]},
    ]
    found = list(read_preferences(written(tmp_path / "pairs.jsonl", rows)))
    first = found[0]
    assert (first.chosen.id, first.rejected.id) == ("one/chosen", "one/rejected")
    assert first.chosen.licence == "CC0-1.0"
    assert first.rejected.messages == (Message("user", "q"), Message("assistant", "b"))
    assert [each.prompt for each in found] == [1, 3, 3]
    assert found[1].chosen.messages == found[2].chosen.messages
    assert found[1].rejected.messages == found[2].rejected.messages


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"prompt": "q", "chosen": "a"}, "there is no `rejected`"),
        ({"prompt": "q", "chosen": "a", "rejected": "a"}, "are the same"),
        ({"prompt": "q", "chosen": "a", "rejected": " "}, "is an empty answer"),
        ({"prompt": "q", "chosen": 1, "rejected": "a"}, "`chosen` must be a string or a list"),
        ({"chosen": "a", "rejected": "b"}, "there is no `prompt`, and nothing that both begin"),
        (
            {"prompt": "q", "chosen": "a", "rejected": [{"role": "user", "content": "b"}]},
            "nobody answers in `rejected`",
        ),
        ([1], "must be a JSON object"),
    ],
)
def test_a_line_that_is_no_pair_is_a_sentence(tmp_path, row, says):
    (found,) = read_preferences(written(tmp_path / "pairs.jsonl", [row]))
    assert isinstance(found, BadLine)
    assert says in found.sentence
    assert "pairs.jsonl:1" in found.sentence


def test_both_answers_of_a_pair_are_in_a_row_and_nothing_of_its_prompt_is_learned(
    tmp_path, tokenizer
):
    template, rows = ChatTemplate(), []
    for n in range(40):
        before = [question(n), answer(n)] * (n % 2)
        roles = ("user", "assistant")
        prompt = [
            {"role": roles[i % 2], "content": x} for i, x in enumerate([*before, question(n)])
        ]
        both = {"chosen": answer(n), "rejected": answer(n + 1) + "!"}
        rows.append({"prompt": prompt, **both, "id": str(n)})
    path = written(tmp_path / "pairs.jsonl", rows)
    report = build_dialogues(str(tmp_path / "out"), [path], tokenizer, template, T, 0, pairs=True)
    store = Store.open(str(tmp_path / "out"))
    count = report.rows["train"]
    assert report.dialogues["train"] + report.too_long == 80
    assert report.dialogues["train"] > 2 * count  # rows hold several pairs
    marked = store.read_marked(0, "train", np.arange(count) * T, T + 1)
    batch = marked_batch(marked)
    seen = []
    for row in range(count):
        numbers = np.unique(batch.segments[row][batch.weights[row] > 0])
        np.testing.assert_array_equal(numbers, np.arange(len(numbers)))
        assert len(numbers) % 2 == 0
        texts = []
        for number in numbers:
            of_segment = batch.segments[row] == number
            learned = batch.weights[row] * of_segment > 0
            said = tokenizer.decode(batch.tokens[row, 1:][learned].tolist())
            first, last = np.flatnonzero(of_segment)[0], np.flatnonzero(learned)[0] + 1
            texts.append((tokenizer.decode(batch.tokens[row, first:last].tolist()), said))
        for (prompt, chosen), (other, rejected) in zip(texts[::2], texts[1::2], strict=True):
            n = next(
                i
                for i, x in enumerate(rows)
                if x["rejected"] in rejected
                and x["chosen"] in chosen
                and x["prompt"][-1]["content"] in prompt
            )
            assert prompt == other
            seen.append(n)
    assert len(seen) == len(set(seen)) == report.dialogues["train"] // 2
    bad = written(tmp_path / "bad.jsonl", [{"prompt": "q", "completion": "a"}])
    with pytest.raises(InputError, match="there is no `chosen`"):
        build_dialogues(str(tmp_path / "no"), [bad], tokenizer, template, T, 0, pairs=True)
