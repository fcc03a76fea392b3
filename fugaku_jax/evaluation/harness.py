"""A model does tasks of lm-evaluation-harness, whose figures become scores of ours."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import lm_eval
from lm_eval.api.metrics import mean
from lm_eval.api.task import Task
from lm_eval.tasks import TaskManager
from lm_eval.utils import apply_template

from fugaku_jax.evaluation.harness_model import HarnessModel
from fugaku_jax.evaluation.task_score import TaskScore

Knows = Callable[[str], bool]
"""Tells whether a text stands in what a model has learned from."""


def do_tasks(
    model: HarnessModel,
    wanted: Sequence[str | dict[str, Any]],
    limit: int | None = None,
    num_fewshot: int | None = None,
    knows: Knows | None = None,
) -> tuple[list[TaskScore], dict[str, Any]]:
    """Do tasks.

    Args:
        model: who does them.
        wanted: tasks as `tasks_of` gives them.
        limit: most items of a task.
        num_fewshot: examples before each item, in the place of what the task says.
        knows: is asked about each item's text, `doc_to_decontamination_query` where the task has
            it and else what is asked; no item counts as contaminated or as clean without it.

    Returns:
        the scores, and the harness's own `results` and `n-samples`.
    """
    # Reading all that the harness knows takes seconds.
    named = any(isinstance(each, str) for each in wanted)
    manager = TaskManager(include_defaults=named)
    loaded = manager.load(list(wanted))
    tasks: dict[str, Task] = loaded["tasks"]
    found = lm_eval.simple_evaluate(
        model,
        tasks=[*loaded["groups"].values(), *tasks.values()],
        task_manager=manager,
        limit=limit,
        num_fewshot=num_fewshot,
        log_samples=True,
        bootstrap_iters=1000,
    )
    scores: list[TaskScore] = []
    for name, figures in found["results"].items():
        samples = found["samples"].get(name)
        if samples is None:  # a group: the mean of its tasks
            continue
        scores += _scores(name, tasks[name], figures, samples, knows)
    return scores, {"results": found["results"], "n_samples": found["n-samples"]}


def _scores(
    name: str,
    task: Task,
    figures: Mapping[str, Any],
    samples: Sequence[Mapping[str, Any]],
    knows: Knows | None,
) -> list[TaskScore]:
    known = None
    if knows is not None:
        docs = {sample["doc_id"]: sample["doc"] for sample in samples}
        known = {number for number, doc in docs.items() if knows(_asked(task, doc))}
    scores = []
    for figure, value in figures.items():
        metric, _, chosen = figure.partition(",")
        if not chosen or not isinstance(value, float) or metric.endswith("_stderr"):
            continue
        if not math.isfinite(value):  # of a model that says what is impossible
            continue
        mine = [each for each in samples if each["filter"] == chosen and metric in each]
        error = figures.get(f"{metric}_stderr,{chosen}")
        share = clean = None
        if known is not None and mine:
            rest = [each[metric] for each in mine if each["doc_id"] not in known]
            share = 1 - len(rest) / len(mine)
            clean = float(task.aggregation().get(metric, mean)(rest)) if rest else None
        label = metric if chosen == "none" else f"{metric} ({chosen})"
        error = error if isinstance(error, float) else None
        scores.append(TaskScore(name, label, value, error, len(mine), share, clean))
    return scores


def _asked(task: Task, doc: dict[str, Any]) -> str:
    """Return what tells an item from all others."""
    query = task.config.doc_to_decontamination_query
    if isinstance(query, str):  # the harness's own reading of it takes some texts for Python
        return doc[query] if query in doc else apply_template(query, doc)
    text = task.doc_to_text(doc) or task.doc_to_target(doc)  # a text that is predicted as a whole
    return str(text)
