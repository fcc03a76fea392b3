"""`launch/evaluate.py mt-bench`: a whole run against a judge that fails, killed and resumed."""

import importlib
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from graded_runs import graded_run
from stub_judge import stub_judge

from fugaku_jax.errors import InputError
from fugaku_jax.evaluation.mt_bench import TEMPERATURES, WITH_REFERENCE
from fugaku_jax.run.scores import read_gradings
from fugaku_jax.tuning.chat_template import FUGAKU

ROOT = Path(__file__).parents[2]
POSITIONS = 128
# Short, for a model of 128 positions; a turn is told in some fifteen of its tokens.
TEMPLATE = (
    "{%- for each in messages -%}"
    "{{ '\\n## Q:' if each['role'] == 'user' else '\\n## A:' }}{{ each['content'] }}"
    "{%- endfor -%}{{ '\\n## A:' if add_generation_prompt }}"
)


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A folder with an untrained run, a chat template, 80 questions and their references."""
    folder = tmp_path_factory.mktemp("mt_bench")
    graded_run(folder, POSITIONS)
    (folder / "chat.jinja").write_text(TEMPLATE)
    asked, right = [], []
    for place in range(80):
        category, number = list(TEMPERATURES)[place // 10], place + 11
        turns = [f"{number} wet", "x" * POSITIONS if number == 50 else f"May {number}"]
        asked.append({"question_id": number, "category": category, "turns": turns})
        if category in WITH_REFERENCE:
            answers = [f"right {number}", f"right again {number}"]
            right.append({"question_id": number, "choices": [{"index": 0, "turns": answers}]})
    for name, lines in (("questions", asked), ("references", right)):
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / f"{name}.jsonl").write_text(text)
    return folder


@pytest.fixture
def mt_bench(monkeypatch, capsys, given):
    """Run the program in this process and return what it prints."""
    monkeypatch.syspath_prepend(ROOT / "launch")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("JUDGE", "secret")
    monkeypatch.setenv("XDG_CACHE_HOME", str(given / "cache"))
    program = importlib.import_module("evaluate")

    def run(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", [*command(given, *arguments)][1:])
        program.main()
        return capsys.readouterr().out

    return run


def command(given: Path, *arguments: object) -> list[str]:
    fixed = [sys.executable, ROOT / "launch" / "evaluate.py", "mt-bench", given / "run"]
    fixed += ["--questions", given / "questions.jsonl", "--references", given / "references.jsonl"]
    fixed += ["--chat-template", given / "chat.jinja", "--max-tokens", 4, "--dtype", "float32"]
    return [str(each) for each in (*fixed, "--judge-key-variable", "JUDGE", *arguments)]


def lines_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.slow
def test_a_run_survives_a_failing_judge_and_a_kill_and_asks_nothing_twice(mt_bench, given):
    """80 questions, 160 judgments, every second request failing; killed at two of three."""
    out, requests = given / "out", Counter()
    with stub_judge() as judge:
        arguments = ["--out", out, "--judge", judge.url, "--judge-model", "stub"]
        # On the line, so that at the kill all that was answered has been written.
        process = subprocess.Popen(command(given, *arguments), env=os.environ | {"JUDGE": "secret"})

        def fail(_: str) -> int | None:
            requests["all"] += 1
            if requests["all"] == 215:
                process.send_signal(signal.SIGKILL)
                process.wait()
            return 503 if requests["all"] % 2 else None

        judge.fault = fail
        judge.say = lambda user: (
            f"Good. [[{9 if 'single' in user or 'Conversation' in user else 4}]]"
        )
        process.wait()
        assert process.returncode == -signal.SIGKILL
        there, answers = lines_of(out / "judgments.jsonl"), (out / "answers.jsonl").read_bytes()
        assert 80 < len(there) < 160
        table = mt_bench(*arguments)
        assert sum(judge.answered.values()) == 160
        assert set(judge.answered.values()) == {1}
        assert judge.failed >= 160
        assert judge.keys == {"Bearer secret"}
        # Once more: nobody is asked, and the scores are the same.
        asked = requests["all"]
        found = json.loads(mt_bench(*arguments, "--json"))
        assert requests["all"] == asked
    assert (out / "answers.jsonl").read_bytes() == answers
    judgments = lines_of(out / "judgments.jsonl")
    assert judgments[: len(there)] == there
    assert len(judgments) == len({(line["question_id"], line["turn"]) for line in judgments}) == 160
    kinds = Counter(line["judge"][1] for line in judgments)
    assert kinds == {
        "single-v1": 50,
        "single-math-v1": 30,
        "single-v1-multi-turn": 50,
        "single-math-v1-multi-turn": 30,
    }
    assert list(found["categories"]) == list(TEMPERATURES)
    for each in (*found["categories"].values(), found["total"]):
        assert [turn["mean"] for turn in each["turns"]] == [4, 9]
        assert each["both"]["mean"] == 6.5
        assert each["both"]["standard_error"] == 0
    assert found["total"]["both"]["judgments"] == 160
    assert found == json.loads((out / "scores.json").read_text())
    (kept,) = read_gradings(given / "run")
    assert (kept.program, kept.step, len(kept.scores)) == ("mt-bench", 1, len(TEMPERATURES) + 1)
    everything = kept.scores[-1]
    assert (everything.value, everything.items) == (6.5, 160)
    assert (everything.contaminated, everything.clean) == (0, 6.5)  # what is so short is no part
    assert "0.0% of the questions are contaminated; the score of the others is 6.50" in table
    assert "6.50" in table
    assert "stem" in table
    picture = (out / "radar.svg").read_text()
    assert all((each.upper() if each == "stem" else each) in picture for each in TEMPERATURES)
    answered = {line["question_id"]: line for line in lines_of(out / "answers.jsonl")}
    assert answered[50]["finishes"][1] == "no room"
    assert answered[50]["choices"][0]["turns"][1] == ""
    assert found["no_room"] == 1
    with pytest.raises(InputError, match=r"answers of another kind \(differing: seed\)"):
        mt_bench(*arguments, "--seed", 1)


@pytest.mark.slow
def test_without_a_judge_there_are_answers_and_prompts_and_no_score(mt_bench, given):
    """The second question's answers are those of the model asked for them alone, turn by turn."""
    out = given / "unjudged"
    said = mt_bench("--out", out)
    assert "80 questions answered, and 160 prompts" in said
    assert "there is no score" in said
    assert not (out / "scores.json").exists()
    assert json.loads(mt_bench("--out", out, "--json"))["scores"] is None
    # What a kill would have left of a line is answered again, and the same, be it by chance.
    answers = (out / "answers.jsonl").read_bytes()
    (out / "answers.jsonl").write_bytes(answers[: answers.index(b'"question_id": 15') + 40])
    mt_bench("--out", out)
    assert (out / "answers.jsonl").read_bytes() == answers
    generate = importlib.import_module("generate")
    answer = lines_of(out / "answers.jsonl")[21]
    assert answer["question_id"] == 32  # of reasoning, whose temperature is 0
    _, *loaded = generate.load_for_inference(given / "run", "float32")
    engine = generate.Engine(*loaded, "float32")
    options = generate.Options(4, temperature=0, stop=("## Q:",))
    first, second = answer["choices"][0]["turns"]
    (alone,) = engine.answers([(engine.tokens("\n## Q:32 wet\n## A:"), options)])
    assert first == alone.text.strip()
    asked = engine.tokens(f"\n## Q:32 wet\n## A:{first}\n## Q:May 32\n## A:")
    (alone,) = engine.answers([(asked, options)])
    assert second == alone.text.strip()
    prompts = lines_of(out / "prompts.jsonl")
    assert len(prompts) == 160
    assert f"### Assistant A:\n{second}\n" in prompts[43]["user_prompt"]
    with pytest.raises(InputError, match=r"answers of another kind \(differing: weights\)"):
        mt_bench("--out", out, "--weights", "int8")
    assert "80 questions answered" in mt_bench("--out", given / "int8", "--weights", "int8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--judge", "http://x/v1"], "Give --judge URL with --judge-model NAME, or neither"),
        (["--judge", "x", "--judge-model", "m"], "--judge x is no URL"),
        (["--max-tokens", 0], "max_tokens is 0"),
        (["--questions", "absent.jsonl"], "absent.jsonl cannot be read"),
        (["--mesh.pipeline", 2], "shared by --mesh.data and --mesh.tensor alone"),
    ],
)
def test_wrong_arguments_are_one_sentence(mt_bench, tmp_path, arguments, message):
    with pytest.raises(InputError) as error:
        mt_bench("--out", tmp_path / "out", *arguments)
    assert message in str(error.value)
    assert not (tmp_path / "out").exists()


def test_what_stands_before_the_next_question_is_read_off_a_template():
    from fugaku_jax.tuning.chat_template import ChatTemplate

    assert ChatTemplate(FUGAKU).next_turn() == "### 指示:"
    assert ChatTemplate(TEMPLATE).next_turn() == "## Q:"
    alone = "{% for each in messages %}{{ each['content'] }}{% endfor %}"
    assert ChatTemplate(alone).next_turn() == ""
