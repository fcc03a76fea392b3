"""What a judge is asked about an answer: the single-answer prompts of FastChat's `llm_judge`.

`judge_prompts.jsonl` has them as they are published (https://github.com/lm-sys/FastChat,
Apache-2.0): of a first turn and of both, without and with a right answer.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from fugaku_jax.errors import InputError
from fugaku_jax.evaluation.json_lines import read_objects
from fugaku_jax.evaluation.mt_bench import WITH_REFERENCE, Question
from fugaku_jax.json_types import typed

_PUBLISHED = Path(__file__).with_name("judge_prompts.jsonl")
_SINGLE = ("question", "answer")
_BOTH = ("question_1", "answer_1", "question_2", "answer_2")
_PLACES = {
    "single-v1": _SINGLE,
    "single-math-v1": (*_SINGLE, "ref_answer_1"),
    "single-v1-multi-turn": _BOTH,
    "single-math-v1-multi-turn": (*_BOTH, "ref_answer_1", "ref_answer_2"),
}


@dataclass(frozen=True)
class JudgePrompt:
    """What a judge is told, and told to do; in braces what stands there for each answer."""

    name: str
    system_prompt: str
    prompt_template: str


@dataclass(frozen=True)
class Asked:
    """What a judge is asked about one turn of an answer."""

    question_id: int
    turn: int
    """1 or 2."""
    judge_prompt: str
    """The name of the prompt."""
    system_prompt: str
    user_prompt: str


def read_judge_prompts(path: Path | None = None) -> dict[str, JudgePrompt]:
    """Read prompts for judges, by name.

    Args:
        path: JSONL with `name`, `system_prompt` and `prompt_template`; what is not for single
            answers is passed over. The published ones if not given.

    Raises:
        InputError: one is missing, or a place in one is unknown or missing.
    """
    path = path or _PUBLISHED
    prompts = {}
    for name, line in read_objects(path):
        if line.get("name") not in _PLACES:
            continue
        fields = ("name", "system_prompt", "prompt_template")
        if missing := [each for each in fields if each not in line]:
            raise InputError(f"{name}: {missing[0]} is missing.")
        prompt = typed(JudgePrompt, {each: line[each] for each in fields}, name)
        places = set(re.findall(r"\{(\w+)\}", prompt.prompt_template))
        if places != set(_PLACES[prompt.name]):
            wanted = " ".join(f"{{{each}}}" for each in _PLACES[prompt.name])
            raise InputError(f"{name}: prompt_template must have the places {wanted}.")
        prompts[prompt.name] = prompt
    if missing := [each for each in _PLACES if each not in prompts]:
        raise InputError(f"{path} has no prompt {missing[0]}.")
    return prompts


def ask_about(
    prompts: dict[str, JudgePrompt], question: Question, answers: tuple[str, ...]
) -> list[Asked]:
    """Return what a judge is asked about each turn of the answers to a question."""
    kind = "single-math-v1" if question.category in WITH_REFERENCE else "single-v1"
    values = {"question": question.turns[0], "answer": answers[0]}
    for turn, (asked, answer) in enumerate(zip(question.turns, answers, strict=True), 1):
        values |= {f"question_{turn}": asked, f"answer_{turn}": answer}
    values |= {f"ref_answer_{turn}": right for turn, right in enumerate(question.reference, 1)}
    found = []
    for turn, name in ((1, kind), (2, f"{kind}-multi-turn")):
        prompt = prompts[name]
        # In one go, as what a model answers may have braces too.
        text = re.sub(r"\{(\w+)\}", lambda place: values[place[1]], prompt.prompt_template)
        found.append(Asked(question.id, turn, name, prompt.system_prompt, text))
    return found
