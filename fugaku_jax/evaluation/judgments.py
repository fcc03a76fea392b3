"""What a judge says of answers, and the scores that come of it."""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

from fugaku_jax.evaluation.json_lines import GrowingLines
from fugaku_jax.evaluation.judge_prompts import Asked
from fugaku_jax.evaluation.mt_bench import TEMPERATURES, Question
from fugaku_jax.evaluation.task_score import TaskScore

LOWEST, HIGHEST = 1, 10
DROPPED = -1
"""The score of a judgment without a rating, as FastChat writes it."""
TRIES = 3
"""How often a judge that gives no rating is asked."""
JUDGMENT_FIELDS = ("question_id", "turn", "judge", "user_prompt", "score")
"""What is read of a line of judgments."""
_RATING = re.compile(r"\[\[(\d+\.?\d*)\]\]")
_ALMOST = re.compile(r"\[(\d+\.?\d*)\]")


@dataclass(frozen=True)
class Rated:
    """Ratings together."""

    mean: float | None
    """From 1 to 10; None without a rating."""
    standard_error: float | None
    """Of the mean, each question being one draw; None below two of them."""
    judgments: int
    """Those that have a rating."""
    dropped: int
    """Those that have none, which count for nothing in the mean."""


@dataclass(frozen=True)
class CategoryScore:
    """How one category, or all of them, were judged."""

    turns: tuple[Rated, ...]
    both: Rated


def read_rating(judgment: str) -> float | None:
    """Return the rating in a judgment, `[[5]]` or else `[5]`, the first as FastChat takes it.

    None if there is none, or none from 1 to 10.
    """
    found = _RATING.search(judgment) or _ALMOST.search(judgment)
    rating = float(found[1]) if found else math.nan
    return rating if LOWEST <= rating <= HIGHEST else None


def write_judgments(
    judge: Callable[[str, str], str],
    judge_model: str,
    model: str,
    asked: Sequence[Asked],
    file: GrowingLines,
) -> Iterator[None]:
    """Have a judge rate what it has not rated yet; one yield is one judgment more.

    Without a rating the judge is asked again, and then the judgment has a score of -1. A line is
    FastChat's: `question_id`, `model`, `judge`, `user_prompt`, `judgment`, `score`, `turn`.

    Raises:
        InputError, RunError: as the judge.
    """
    done = {_key(line) for line in file.lines}
    for each in asked:
        if (each.question_id, each.turn, judge_model, each.user_prompt) in done:
            continue
        judgment, rating = "", None
        for _ in range(TRIES):
            judgment = judge(each.system_prompt, each.user_prompt)
            rating = read_rating(judgment)
            if rating is not None:
                break
        line = {"question_id": each.question_id, "model": model}
        line |= {"judge": [judge_model, each.judge_prompt], "user_prompt": each.user_prompt}
        score = DROPPED if rating is None else rating
        file.append(line | {"judgment": judgment, "score": score, "turn": each.turn})
        yield


def score(
    questions: Sequence[Question],
    asked: Sequence[Asked],
    judge_model: str,
    lines: Iterable[dict[str, Any]],
) -> tuple[dict[str, CategoryScore], CategoryScore]:
    """Return the scores of each category that has questions, and of all.

    Args:
        questions: all of them.
        asked: what the judge was to be asked; judgments of anything else are passed over.
        judge_model: whose judgments count.
        lines: judgments.
    """
    wanted = {(each.question_id, each.turn, judge_model, each.user_prompt) for each in asked}
    ratings = {(key[0], key[1]): line["score"] for line in lines if (key := _key(line)) in wanted}
    categories = {}
    for category in TEMPERATURES:
        numbers = [each.id for each in questions if each.category == category]
        if numbers:
            categories[category] = _score(numbers, ratings)
    return categories, _score([each.id for each in questions], ratings)


def task_scores(
    questions: Sequence[Question],
    asked: Sequence[Asked],
    judge_model: str,
    lines: Sequence[dict[str, Any]],
    knows: Callable[[str], bool] | None = None,
) -> list[TaskScore]:
    """Return the mean rating of each category that has one, and of all, whose items are judgments.

    Args:
        questions, asked, judge_model, lines: as of `score`.
        knows: tells whether a text stands in what the model has learned from; a question of which
            a turn does is contaminated.
    """
    known = {q.id for q in questions if knows is not None and any(map(knows, q.turns))}
    others = [q for q in questions if q.id not in known]
    clean, clean_total = score(others, asked, judge_model, lines)
    categories, total = score(questions, asked, judge_model, lines)
    found = []
    for name, each in (*categories.items(), ("all categories", total)):
        if each.both.mean is None:
            continue
        task, share, value = f"MT-Bench {name}", None, None
        if knows is not None:
            of_these = [q.id in known for q in questions if name in (q.category, "all categories")]
            share = float(mean(of_these))
            rest = clean_total if each is total else clean.get(name)
            value = rest.both.mean if rest else None
        error, count = each.both.standard_error, each.both.judgments
        label = f"rating by {judge_model}"
        found.append(TaskScore(task, label, each.both.mean, error, count, share, value))
    return found


def _score(numbers: Sequence[int], ratings: dict[tuple[int, int], float]) -> CategoryScore:
    turns = tuple(_rated([[ratings.get((n, turn))] for n in numbers]) for turn in (1, 2))
    return CategoryScore(turns, _rated([[ratings.get((n, t)) for t in (1, 2)] for n in numbers]))


def _rated(questions: Sequence[Sequence[float | None]]) -> Rated:
    """Return the mean of all ratings, and its error from the means of the questions."""
    given = [[each for each in some if each is not None] for some in questions]
    rated = [[each for each in some if each != DROPPED] for some in given]
    means = [mean(some) for some in rated if some]
    count, all_given = sum(map(len, rated)), sum(map(len, given))
    total = sum(map(sum, rated)) / count if count else None
    error = stdev(means) / math.sqrt(len(means)) if len(means) > 1 else None
    return Rated(total, error, count, all_given - count)


def _key(line: dict[str, Any]) -> tuple[int, int, str, str]:
    return line["question_id"], line["turn"], line["judge"][0], line["user_prompt"]
