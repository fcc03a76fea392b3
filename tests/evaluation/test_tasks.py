"""The task files of `configs/tasks`, done by one who knows what to say: prompts, figures, items."""

import json
from pathlib import Path

import lm_eval
import lm_eval.tasks
import pytest
import yaml
from lm_eval.api.model import LM
from lm_eval.tasks import TaskManager
from lm_eval.utils import apply_template

from fugaku_jax.errors import InputError
from fugaku_jax.evaluation.harness import do_tasks
from fugaku_jax.evaluation.harness_tasks import tasks_of

TASKS = Path(__file__).parents[2] / "configs" / "tasks"
PUBLISHED = Path(lm_eval.tasks.__file__).parent
ITEMS = 4
QUESTIONS = [f"りんごが{n}個、みかんが{n}個あります。合わせて何個ですか？" for n in range(ITEMS)]
SQUAD = [
    {
        "title": "町",
        "paragraphs": [
            {
                "context": f"町 [SEP] 町には橋が{n}本あり、川は{n + 5}本ある。 ",
                "qas": [
                    {
                        "id": str(n),
                        "question": f"町{n}の橋は何本ですか？",
                        "answers": [{"text": f"{n}本", "answer_start": 7}],
                        "is_impossible": False,
                    }
                ],
            }
            for n in range(ITEMS)
        ],
    }
]
ARC = [
    {
        "id": str(n),
        "question": {
            "stem": f"Which of these is number {n}?",
            "choices": [{"text": f"the {n + i}th", "label": "ABCD"[i]} for i in range(4)],
        },
        "answerKey": "ABCD"[n % 4],
    }
    for n in range(ITEMS)
]
JCOMMONSENSEQA = [
    {
        "q_id": n,
        "question": QUESTIONS[n],
        "label": n % 5,
        **{f"choice{i}": f"{i}個" for i in range(5)},
    }
    for n in range(ITEMS)
]
GSM8K = [
    {"question": f"What is {n} and {n}?", "answer": f"It is 1,0{2 * n}.\n#### 1,0{2 * n}"}
    for n in range(ITEMS)
]


def lines(items: list[dict]) -> str:
    return "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in items)


# The data file's name and text; what is said to each item that is right, wrong at the last one.
GIVEN = {
    "mgsm_ja": (
        "mgsm_ja.tsv",
        "".join(f'{each}\t"1,00{n}\n'.replace('"', "") for n, each in enumerate(QUESTIONS)),
        [*(f"答えは 100{n}" for n in range(ITEMS - 1)), "1"],
    ),
    "jsquad": (
        "jsquad_valid-v1.3.json",
        json.dumps({"version": "1.3", "data": SQUAD}, ensure_ascii=False),
        [*(f" {n}本\n" for n in range(ITEMS - 1)), "川"],
    ),
    "arc": ("arc_test.jsonl", lines(ARC), [0, 1, 2, 0]),
    "jcommonsenseqa": ("jcommonsenseqa_valid-v1.3.json", lines(JCOMMONSENSEQA), [0, 1, 2, 4]),
    "gsm8k": (
        "gsm8k_test.jsonl",
        lines(GSM8K),
        [*(f"Well: 1 and 10{2 * n}" for n in range(ITEMS - 1)), "1"],
    ),
}
# The figure that is right of three items of four.
FIGURE = {"mgsm_ja": "exact_match (flexible-extract)", "jsquad": "exact_match (whitespaces)"}
FIGURE |= {"gsm8k": "exact_match (last-number)"}


class Knowing(LM):
    """Says what it is told to say, item by item, and keeps what it was asked."""

    def __init__(self, say: list) -> None:
        super().__init__()
        self.say, self.asked = say, []

    def generate_until(self, requests, **_):
        self.asked = [each.args for each in requests]
        return list(self.say)

    def loglikelihood(self, requests, **_):
        self.asked = [each.args for each in requests]
        many = len(requests) // len(self.say)
        return [(float(self.say[i // many] == i % many), False) for i in range(len(requests))]

    def loglikelihood_rolling(self, requests, **_):
        raise NotImplementedError


@pytest.mark.parametrize("name", GIVEN)
def test_a_task_file_asks_and_scores_its_own_data(tmp_path, name):
    file, text, say = GIVEN[name]
    (tmp_path / file).write_text(text)
    model = Knowing(say)
    known = []

    def knows(question: str) -> bool:  # the first item and the wrong one
        known.append(question)
        return len(known) in (1, ITEMS)

    scores, _ = do_tasks(model, tasks_of(str(TASKS / f"{name}.yaml"), tmp_path), knows=knows)
    assert len(known) == ITEMS
    assert all(mine in str(asked) for mine, asked in zip(known, contexts(model), strict=True))
    found = {each.metric: each for each in scores}[FIGURE.get(name, "acc")]
    assert (found.value, found.items) == (0.75, ITEMS)
    assert found.standard_error == pytest.approx((0.75 * 0.25 / (ITEMS - 1)) ** 0.5)
    assert (found.contaminated, found.clean) == (0.5, 1.0)


@pytest.mark.parametrize(
    ("name", "published", "docs"),
    [
        ("arc", "arc/arc_easy.yaml", [
            {
                "question": each["question"]["stem"],
                "choices": {
                    "text": [x["text"] for x in each["question"]["choices"]],
                    "label": [x["label"] for x in each["question"]["choices"]],
                },
            }
            for each in ARC
        ]),
        ("mgsm_ja", "mgsm/direct/mgsm_direct_ja.yaml", [
            {"question": each, "answer": None} for each in QUESTIONS
        ]),
        ("jsquad", "japanese_leaderboard/ja_leaderboard_jsquad.yaml", [
            {"question": each["qas"][0]["question"], "context": each["context"]}
            for each in SQUAD[0]["paragraphs"]
        ]),
    ],
)  # fmt: skip
def test_prompts_are_those_of_the_published_task(tmp_path, name, published, docs):
    file, text, say = GIVEN[name]
    (tmp_path / file).write_text(text)
    model = Knowing(say)
    do_tasks(model, tasks_of(str(TASKS / f"{name}.yaml"), tmp_path))
    task = yaml.safe_load((PUBLISHED / published).read_text())
    before = task.get("description", "")
    expected = [before + apply_template(task["doc_to_text"], each) for each in docs]
    if name == "arc":
        said = [f" {each}" for each in docs[0]["choices"]["text"]]
        assert [choice for _, choice in model.asked[:4]] == said
    assert contexts(model) == expected


def contexts(model: Knowing) -> list[str]:
    """What was asked, once for each item."""
    return list(dict.fromkeys(args[0] for args in model.asked))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("doc_to_text", None, "lacks the field doc_to_text"),
        ("task", None, "lacks the field task"),
        ("process_docs", "os.system", "process_docs must be questions_of_paragraphs"),
    ],
)
def test_a_task_file_with_a_fault_is_one_sentence(tmp_path, field, value, message):
    task = yaml.safe_load((TASKS / "arc.yaml").read_text()) | {field: value}
    task = {name: each for name, each in task.items() if each is not None}
    (tmp_path / "task.yaml").write_text(json.dumps(task))
    (tmp_path / "arc_test.jsonl").write_text(lines(ARC))
    with pytest.raises(InputError, match=message):
        tasks_of(str(tmp_path / "task.yaml"), None)


@pytest.mark.parametrize("examples", [None, 2])
def test_a_task_is_asked_as_the_harness_s_own_program_asks_it(tmp_path, examples):
    file, text, say = GIVEN["jsquad"]
    (tmp_path / file).write_text(text)

    def wanted() -> list:
        return tasks_of(str(TASKS / "jsquad.yaml"), tmp_path)

    ours, theirs = Knowing(say), Knowing(say)
    do_tasks(ours, wanted(), num_fewshot=examples)
    manager = TaskManager(include_defaults=False)
    lm_eval.simple_evaluate(
        theirs, tasks=wanted(), task_manager=manager, num_fewshot=examples, bootstrap_iters=0
    )
    assert ours.asked == theirs.asked
    assert ours.asked[0][0].count("質問：") == 1 + (examples or 0)
