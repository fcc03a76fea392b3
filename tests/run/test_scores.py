"""What graded a run is read back as it was kept, and a damaged file is one sentence."""

import json

import pytest

from fugaku_jax.errors import InputError
from fugaku_jax.evaluation.task_score import TaskScore
from fugaku_jax.run.scores import Grading, read_gradings, save_grading

SCORES = (
    TaskScore("算数", "exact_match (last)", 0.25, 0.04, 100, 0.03, 0.24),
    TaskScore("算数", "acc", 0.5, None, 100),
)
GRADING = Grading("harness", 7, {"limit": None, "dtype": "float32"}, "All of it.", SCORES)


def test_gradings_are_read_back_and_a_later_one_of_a_task_replaces_the_first(tmp_path):
    assert read_gradings(tmp_path) == []
    save_grading(tmp_path, Grading("harness", 3, {}, "", ()), "a/b: 算数")
    path = save_grading(tmp_path, GRADING, "a/b: 算数")
    save_grading(tmp_path, Grading("perplexity", 7, {}, "", ()))
    assert path.parent == tmp_path / "scores"
    assert read_gradings(tmp_path) == [GRADING, Grading("perplexity", 7, {}, "", ())]


def test_a_figure_is_spelled_with_its_error_and_what_is_known_of_its_items():
    assert SCORES[0].spelled() == "0.2500 ± 0.0400 of 100, 3.0% contaminated (0.2400 clean)"
    assert SCORES[1].spelled() == "0.5000 of 100"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"step": "seven"}, "step is 'seven', but it must be a whole number"),
        ({"scores": 1}, "scores must be a list"),
        ({"scores": [{"task": "x"}]}, "scores.metric is missing"),
        ({"program": None}, "program is missing"),
    ],
)
def test_a_damaged_file_is_one_sentence(tmp_path, change, message):
    path = save_grading(tmp_path, GRADING)
    said = json.loads(path.read_text()) | change
    path.write_text(json.dumps({name: each for name, each in said.items() if each is not None}))
    with pytest.raises(InputError, match=message):
        read_gradings(tmp_path)


def test_what_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "scores").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        save_grading(tmp_path, GRADING)
