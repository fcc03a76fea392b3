"""MT-Bench: questions of two turns, and what a model answers.

Zheng et al., "Judging LLM-as-a-Judge with MT-Bench and Chatbot Arena" (2023,
https://arxiv.org/abs/2306.05685); files, temperatures and which categories need a reference are
those of FastChat's `llm_judge`, in which Japanese MT-Bench is published too.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fugaku_jax.errors import InputError
from fugaku_jax.evaluation.json_lines import GrowingLines, read_objects
from fugaku_jax.inference.continuation import Options
from fugaku_jax.inference.engine import Engine
from fugaku_jax.json_types import shown, typed

TEMPERATURES = {
    "writing": 0.7,
    "roleplay": 0.7,
    "reasoning": 0.0,
    "math": 0.0,
    "coding": 0.0,
    "extraction": 0.0,
    "stem": 0.1,
    "humanities": 0.1,
}
"""The categories, as the paper draws them around, and what logits are divided by in each."""
WITH_REFERENCE = ("reasoning", "math", "coding")
"""Categories whose judge is shown a right answer."""
TURNS = 2
BATCH = 16
"""Questions that are answered at once."""


@dataclass(frozen=True)
class Question:
    """What a model is asked, one turn after the other."""

    id: int
    category: str
    turns: tuple[str, ...]
    reference: tuple[str, ...]
    """A right answer to each turn; empty if the file has none."""


def read_questions(path: Path, references: Path | None = None) -> list[Question]:
    """Read questions, and right answers to those that need them.

    Args:
        path: JSONL with `question_id`, `category`, `turns`, and `reference` if it has it.
        references: JSONL of a model's answers: `question_id`, and `turns` of the first of
            `choices`. They are taken in the place of `reference`.

    Raises:
        InputError: a line lacks a field or has a wrong one, an id stands twice, or a question of
            a category that needs a reference has none.
    """
    right = read_answers(references) if references else {}
    questions: dict[int, Question] = {}
    for name, line in read_objects(path):
        number = typed(int, _field(line, "question_id", name), f"{name}: question_id")
        category = typed(str, _field(line, "category", name), f"{name}: category")
        turns = typed(tuple[str], _field(line, "turns", name), f"{name}: turns")
        reference = typed(tuple[str], line.get("reference", ()), f"{name}: reference")
        reference = right.get(number, reference)
        if category not in TEMPERATURES:
            known = ", ".join(TEMPERATURES)
            raise InputError(f"{name}: category is {shown(category)}, but it must be of {known}.")
        if len(turns) != TURNS or not all(each.strip() for each in turns):
            raise InputError(f"{name}: turns must be {TURNS} texts that are not empty.")
        if category in WITH_REFERENCE and len(reference) != TURNS:
            raise InputError(
                f"{name}: question {number} is of {category}, whose judge needs a right answer to "
                "each turn; give a file of them by --references."
            )
        if number in questions:
            raise InputError(f"{name}: question {number} stands there twice.")
        questions[number] = Question(number, category, turns, reference)
    if not questions:
        raise InputError(f"{path} has no questions.")
    return list(questions.values())


def answered_by(
    model_sha256: str, questions: Sequence[Question], template: str, options: Options, dtype: str
) -> dict[str, Any]:
    """Return all that decides the answers, by name."""
    turns = json.dumps([[each.id, each.category, *each.turns] for each in questions])
    return {
        "model_sha256": model_sha256,
        "questions_sha256": hashlib.sha256(turns.encode()).hexdigest(),
        "chat_template_sha256": hashlib.sha256(template.encode()).hexdigest(),
        "max_tokens": options.max_tokens,
        "seed": options.seed,
        "dtype": dtype,
    }


def write_answers(
    load: Callable[[], Engine],
    questions: Sequence[Question],
    prompt: Callable[[Sequence[str]], str],
    options: Options,
    model: str,
    file: GrowingLines,
) -> Iterator[int]:
    """Have a model answer the questions that have no answer yet, each at its temperature.

    A line is FastChat's (`question_id`, `model_id`, `choices`), with why each turn ended in
    `finishes`: as a continuation does, or "no room" where what was said before fills the model, so
    that the answer is empty. A question's answers depend on nothing but its place in the file.

    Args:
        load: gives the model; not called if there is nothing to answer.
        questions: all of them, in the order of their file.
        prompt: makes of what was said so far, the user first, what the model goes on from.
        options: most tokens of an answer, stop strings, seed; the temperature is not heeded.
        model: what the model is called.
        file: the answers.

    Yields:
        how many more questions are answered.
    """
    done = read_answers(file.path)
    rest = [(place, each) for place, each in enumerate(questions) if each.id not in done]
    engine = load() if rest else None
    for first in range(0, len(rest), BATCH):
        assert engine is not None
        some = rest[first : first + BATCH]
        said: list[list[str]] = [[] for _ in some]
        finishes: list[list[str]] = [[] for _ in some]
        for turn in range(TURNS):
            prompts, wanted = [], []
            for (place, question), dialogue in zip(some, said, strict=True):
                dialogue.append(question.turns[turn])
                seed = (options.seed + TURNS * place + turn) % 2**32
                temperature = TEMPERATURES[question.category]
                prompts.append(prompt(dialogue))
                wanted.append(replace(options, temperature=temperature, seed=seed))
            for row, (text, finish) in enumerate(continued(engine, prompts, wanted)):
                said[row].append(text)
                finishes[row].append(finish)
        for (_, question), dialogue, ends in zip(some, said, finishes, strict=True):
            choice = {"index": 0, "turns": dialogue[1::2]}
            line = {"question_id": question.id, "model_id": model, "choices": [choice]}
            file.append(line | {"finishes": ends})
        yield len(some)


def continued(
    engine: Engine, prompts: Sequence[str], options: Sequence[Options]
) -> list[tuple[str, str]]:
    """Return what follows each prompt, without space around it, and why it ended.

    It ended as a continuation does, or by "no room" where the prompt fills the model.
    """
    tokens = [engine.tokens(each) for each in prompts]
    fits = [len(each) < engine.positions for each in tokens]
    pairs = zip(tokens, options, fits, strict=True)
    rows = engine.answers((each, how) for each, how, fit in pairs if fit)
    found = (next(rows) if fit else None for fit in fits)
    return [(row.text.strip(), str(row.finish)) if row else ("", "no room") for row in found]


def read_answers(path: Path) -> dict[int, tuple[str, ...]]:
    """Read answers to each turn of questions, by the question's id, as FastChat writes them.

    Raises:
        InputError: a line lacks a field, or has a wrong one.
    """
    answers = {}
    for name, line in read_objects(path):
        number = typed(int, _field(line, "question_id", name), f"{name}: question_id")
        choices = _field(line, "choices", name)
        if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
            raise InputError(f"{name}: choices is {shown(choices)}, but it must be a list.")
        turns = _field(choices[0], "turns", f"{name}: the first of choices")
        answers[number] = typed(tuple[str], turns, f"{name}: turns")
        if len(answers[number]) != TURNS:
            raise InputError(f"{name}: turns must be {TURNS} texts.")
    return answers


def _field(line: dict[str, Any], field: str, name: str) -> Any:
    if field not in line:
        raise InputError(f"{name}: {field} is missing.")
    return line[field]
