"""Tasks of lm-evaluation-harness: files with local data, or names that the harness knows."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import yaml
from lm_eval.tasks import TaskManager

from fugaku_jax.errors import InputError

_FIELDS = ("task", "output_type", "dataset_path", "test_split", "doc_to_text", "doc_to_target")


def tasks_of(name: str, data: Path | None) -> list[str | dict[str, Any]]:
    """Return the tasks of a file or directory, or a name of the harness's as it is.

    Args:
        name: a task file (YAML), a directory of them, or a name.
        data: where the data files of task files lie; beside each if not given.

    Raises:
        InputError: there is no such task, or a file lacks a field or its data.
    """
    path = Path(name)
    if path.is_dir():
        files = sorted(path.glob("*.yaml"))
        if not files:
            raise InputError(f"--tasks {name} has no task files (.yaml).")
        return [_read_task(each, data) for each in files]
    if path.suffix in (".yaml", ".yml"):
        return [_read_task(path, data)]
    if name not in TaskManager().all_tasks:
        raise InputError(f"--tasks {name} is no file, directory, or task that the harness knows.")
    return [name]


def _read_task(path: Path, data: Path | None) -> dict[str, Any]:
    """Read a task file, whose data files are looked for in `data` or beside it."""
    try:
        task = yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no YAML: {' '.join(str(error).split())}.") from None
    if not isinstance(task, dict):
        raise InputError(f"{path} is no task: it holds no fields.")
    if missing := [each for each in _FIELDS if each not in task]:
        raise InputError(f"{path} lacks the field {missing[0]}.")
    files = task.get("dataset_kwargs", {}).get("data_files", {})
    for split, file in files.items():
        place = (data or path.parent) / file
        if not place.is_file():
            raise InputError(f"{path}: there is no {place}; --data DIR says where its data are.")
        files[split] = str(place.resolve())
    if "process_docs" in task:
        if task["process_docs"] not in _PROCESSING:
            known = ", ".join(_PROCESSING)
            raise InputError(f"{path}: process_docs must be {known}, as no code is read here.")
        task["process_docs"] = _PROCESSING[task["process_docs"]]
    return task


def _questions_of_paragraphs(articles: datasets.Dataset) -> datasets.Dataset:
    """Make a row of each question of files of SQuAD's form (Rajpurkar et al., 2016)."""
    rows = [
        {
            "title": article["title"],
            "context": paragraph["context"],
            "question": asked["question"],
            "answers": [answer["text"] for answer in asked["answers"]],
        }
        for article in articles
        for paragraph in article["paragraphs"]
        for asked in paragraph["qas"]
    ]
    return datasets.Dataset.from_list(rows)


_PROCESSING: dict[str, Callable[[datasets.Dataset], datasets.Dataset]] = {
    "questions_of_paragraphs": _questions_of_paragraphs
}
