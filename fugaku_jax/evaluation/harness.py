"""A model does tasks of lm-evaluation-harness, whose figures become scores of ours."""

import math
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import lm_eval
from lm_eval.api.metrics import mean
from lm_eval.api.model import LM
from lm_eval.api.task import Task
from lm_eval.tasks import TaskManager
from lm_eval.utils import apply_template

from fugaku_jax.evaluation.task_score import TaskScore

Knows = Callable[[str], bool]
"""Tells whether a text stands in what a model has learned from."""
_EXAMPLES_SEED = 1234  # of which examples are taken, as the harness has it


def do_tasks(
    model: LM,
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
    tasks, found = ask_tasks(model, wanted, limit, num_fewshot)
    scores: list[TaskScore] = []
    for name, figures in found["results"].items():
        samples = found["samples"].get(name)
        if samples is None:  # a group: the mean of its tasks
            continue
        scores += _scores(name, tasks[name], figures, samples, knows)
    return scores, {"results": found["results"], "n_samples": found["n-samples"]}


def ask_tasks(
    model: LM,
    wanted: Sequence[str | dict[str, Any]],
    limit: int | None = None,
    num_fewshot: int | None = None,
) -> tuple[dict[str, Task], dict[str, Any]]:
    """Return tasks by name, and the harness's own results and samples.

    As its `simple_evaluate`, which lists all that is installed besides, and takes longer for that
    than a small model for a task.

    Args:
        model: any that the harness can ask.
        wanted: as of `do_tasks`, and so the others.
    """
    # Reading all that the harness knows takes seconds.
    named = any(isinstance(each, str) for each in wanted)
    loaded = TaskManager(include_defaults=named).load(list(wanted))
    tasks: dict[str, Task] = loaded["tasks"]
    for task in tasks.values():
        own = task.get_config("num_fewshot")
        if own is None or (own and num_fewshot is not None):  # one that says 0 is asked without any
            task.set_config(key="num_fewshot", value=num_fewshot or 0)
        task.set_fewshot_seed(seed=_EXAMPLES_SEED)
    random.seed(0)  # of the standard errors that are drawn
    return tasks, lm_eval.evaluate(model, loaded, limit=limit, bootstrap_iters=1000)


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
