"""The judge's line, its ratings, and what is asked: against FastChat's words and by hand."""

import json
import math
from collections import Counter

import pytest
from stub_judge import stub_judge

from fugaku_jax.errors import InputError, RunError
from fugaku_jax.evaluation import judge as judges
from fugaku_jax.evaluation.json_lines import GrowingLines
from fugaku_jax.evaluation.judge import Judge
from fugaku_jax.evaluation.judge_prompts import ask_about, read_judge_prompts
from fugaku_jax.evaluation.judgments import (
    DROPPED,
    JUDGMENT_FIELDS,
    TRIES,
    read_rating,
    score,
    task_scores,
    write_judgments,
)
from fugaku_jax.evaluation.mt_bench import Question, read_questions


@pytest.fixture
def judge():
    with stub_judge() as started:
        yield started


@pytest.mark.parametrize(
    ("judgment", "rating"),
    [
        ("この回答は関連性がありません。\n\n評価：[[1]]", 1),
        ("Rating: [[7.5]] out of 10", 7.5),
        ("Rating: [[10]]", 10),
        ("例えば [[3]] ではなく [[8]]", 3),
        ("Rating: [6]", 6),
        ("a[0] is wrong. Rating: [[4]]", 4),
        ("Rating: [[11]]", None),
        ("Rating: [[0]]", None),
        ("Rating: [[rating]]", None),
        ("評価：5", None),
        ("", None),
    ],
)
def test_a_rating_is_read_as_fastchat_reads_it_and_only_from_1_to_10(judgment, rating):
    assert read_rating(judgment) == rating


def test_what_is_asked_has_both_turns_and_the_right_answer_where_it_is_needed():
    prompts = read_judge_prompts()
    question = Question(1, "math", ("1+1?", "+1?"), ("2", "3"))
    first, second = ask_about(prompts, question, ("{answer_2}", "four"))
    assert first.judge_prompt == "single-math-v1"
    assert first.user_prompt.endswith(
        "[Question]\n1+1?\n\n[The Start of Reference Answer]\n2\n[The End of Reference Answer]\n\n"
        "[The Start of Assistant's Answer]\n{answer_2}\n[The End of Assistant's Answer]"
    )
    assert second.judge_prompt == "single-math-v1-multi-turn"
    assert second.user_prompt.index("### Reference answer:\n3") < second.user_prompt.index("four")
    assert second.user_prompt.count("### User:\n1+1?") == 2
    first, second = ask_about(prompts, Question(2, "stem", ("a", "b"), ("x", "y")), ("c", "d"))
    assert (first.judge_prompt, second.judge_prompt) == ("single-v1", "single-v1-multi-turn")
    assert "### User:\nb\n\n### Assistant A:\nd" in second.user_prompt
    assert "focus on the assistant's answer to the second user question" in second.system_prompt


def test_waits_double_until_the_judge_answers_and_the_key_is_sent(judge):
    waits, faults = [], iter(["silence", "no JSON", "{}", 503, 429, None])
    judge.fault = lambda _: next(faults)
    asked = Judge(judge.url, "stub", "secret", wait=waits.append)
    assert asked("system", "user") == "Rating: [[7]]"
    assert waits == [0.5, 1, 2, 0, 0]  # the last two say after how long: `Retry-After: 0`
    assert judge.keys == {"Bearer secret"}


def test_a_judge_out_of_reach_is_a_foreseen_fault_and_a_refusal_is_wrong_input(judge):
    waits = []
    gone = Judge("http://127.0.0.1:9/v1", "stub", wait=waits.append)
    with pytest.raises(RunError, match="did not answer, 16 times over"):
        gone("system", "user")
    assert len(waits) == judges.ATTEMPTS - 1
    assert max(waits) == 60
    for code in (302, 400, 401):
        judge.fault = lambda _, code=code: code
        with pytest.raises(InputError, match=f"refuses: {code}"):
            Judge(judge.url, "stub")("system", "user")
    assert judge.failed == 3
    for url in ("file:///etc/passwd", "api.openai.com/v1", "http://"):
        with pytest.raises(InputError, match="is no URL"):
            Judge(url, "stub")


def test_nonsense_is_asked_again_and_then_dropped_and_counted(tmp_path):
    questions = [Question(number, "stem", (f"q{number}", "b"), ()) for number in (1, 2)]
    prompts = read_judge_prompts()
    asked = [each for one in questions for each in ask_about(prompts, one, ("c", f"{one.id}"))]
    calls = Counter()

    def rater(_: str, user: str) -> str:
        calls[user] += 1
        nonsense = user == asked[3].user_prompt
        late = user == asked[2].user_prompt and calls[user] < TRIES
        return (
            "I like it." if nonsense or late else f"[[{4 if user == asked[1].user_prompt else 8}]]"
        )

    path = tmp_path / "judgments.jsonl"
    with GrowingLines(path, JUDGMENT_FIELDS) as file:
        assert len(list(write_judgments(rater, "stub", "model", asked, file))) == 4
        assert [line["score"] for line in file.lines] == [8, 4, 8, DROPPED]
        assert [calls[each.user_prompt] for each in asked] == [1, 1, TRIES, TRIES]
        with pytest.raises(InputError, match="being written by another program"):
            GrowingLines(path, JUDGMENT_FIELDS)
    with GrowingLines(path, JUDGMENT_FIELDS) as again:
        assert list(write_judgments(rater, "stub", "model", asked, again)) == []
    categories, total = score(questions, asked, "stub", again.lines)
    assert categories == {"stem": total}
    assert total.both.mean == pytest.approx((8 + 4 + 8) / 3)
    # Means of the questions: 6 and 8; deviation √2, of a mean of two 1.
    assert total.both.standard_error == pytest.approx(math.sqrt(2) / math.sqrt(2))
    assert (total.both.judgments, total.both.dropped) == (3, 1)
    assert [turn.mean for turn in total.turns] == [8, 4]
    assert score(questions, asked, "another", again.lines)[1].both.mean is None


def test_a_line_that_a_kill_cut_short_is_not_there(tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_bytes('{"a": "あ"}\n{"a": "い'.encode()[:-1])
    with GrowingLines(path, ("a",)) as file:
        assert file.lines == [{"a": "あ"}]
        file.append({"a": 3})
    assert path.read_text() == '{"a": "あ"}\n{"a": 3}\n'
    with pytest.raises(InputError, match="line 1: b is missing"):
        GrowingLines(path, ("b",))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"category": None}, "line 2: category is None, but it must be a string"),
        ({"category": "poetry"}, "category is 'poetry', but it must be of writing"),
        ({"category": "math"}, "needs a right answer to each turn; give a file of them by --ref"),
        ({"turns": ["a"]}, "turns must be 2 texts"),
        ({"turns": ["a", " "]}, "turns must be 2 texts that are not empty"),
        ({"question_id": 1}, "question 1 stands there twice"),
        ({"question_id": "2"}, "question_id is '2', but it must be a whole number"),
        ({"turns": ...}, "line 2: turns is missing"),
    ],
)
def test_a_wrong_question_is_said_with_its_line(tmp_path, change, message):
    right = {"question_id": 2, "category": "stem", "turns": ["a", "b"]}
    wrong = {name: value for name, value in (right | change).items() if value is not ...}
    path = tmp_path / "questions.jsonl"
    path.write_text(
        "".join(json.dumps(each) + "\n" for each in (right | {"question_id": 1}, wrong))
    )
    with pytest.raises(InputError) as error:
        read_questions(path)
    assert message in str(error.value)


def test_a_prompt_without_its_places_is_refused(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"name": "single-v1", "system_prompt": "", "prompt_template": "{question}"}\n')
    with pytest.raises(InputError, match=r"must have the places \{question\} \{answer\}"):
        read_judge_prompts(path)
    path.write_text('{"name": "pair-v2"}\n')
    with pytest.raises(InputError, match="has no prompt single-v1"):
        read_judge_prompts(path)


def test_a_question_of_which_a_turn_is_known_is_left_out_of_the_clean_score():
    ratings = {1: ("math", (2, 4)), 2: ("math", (6, 8)), 3: ("stem", (9, 9)), 4: ("coding", ())}
    questions = [
        Question(number, category, (f"{number}a", f"{number}b"), ("x", "y"))
        for number, (category, _) in ratings.items()
    ]
    prompts = read_judge_prompts()
    asked = [each for one in questions for each in ask_about(prompts, one, ("1", "2"))]
    lines = [
        {"question_id": each.question_id, "turn": each.turn, "judge": ["j", each.judge_prompt]}
        | {"user_prompt": each.user_prompt, "score": ratings[each.question_id][1][each.turn - 1]}
        for each in asked
        if ratings[each.question_id][1]
    ]
    known = task_scores(questions, asked, "j", lines, {"2b", "3a"}.__contains__)
    found = {each.task: (each.value, each.contaminated, each.clean, each.items) for each in known}
    assert found == {
        "MT-Bench math": (5.0, 0.5, 3.0, 4),
        "MT-Bench stem": (9.0, 1.0, None, 2),
        "MT-Bench all categories": (pytest.approx(38 / 6), 0.5, 3.0, 6),
    }
    assert {each.clean for each in task_scores(questions, asked, "j", lines)} == {None}
