"""How `evaluate.py` keeps the scores of a run, and shows them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fugaku_jax.evaluation.task_score import TaskScore
from fugaku_jax.interop.hf_shape import is_hf_directory
from fugaku_jax.run.checkpoint_folder import saved_steps
from fugaku_jax.run.scores import Grading, save_grading


def keep(
    model: Path,
    program: str,
    asked: Mapping[str, Any],
    contamination: str,
    scores: Sequence[TaskScore],
    name: str = "",
) -> None:
    """Keep scores in the directory of a run; a model directory is left as it is."""
    if not is_hf_directory(model):
        step = saved_steps(model)[-1]
        save_grading(model, Grading(program, step, asked, contamination, scores), name)


def print_scores(title: str, scores: Sequence[TaskScore]) -> None:
    """Print a line for each figure of each task, with what is known of contamination."""
    table = Table(title=Text(title), title_justify="left")
    table.add_column("task")
    table.add_column("figure")
    known = any(each.contaminated is not None for each in scores)
    headings = ("value", "± standard error", "items")
    for heading in (*headings, *(("contaminated", "value of the clean") if known else ())):
        table.add_column(heading, justify="right")
    for each in scores:
        error = "" if each.standard_error is None else f"{each.standard_error:.4f}"
        cells = [f"{each.value:.4f}", error, f"{each.items:,}"]
        if known:
            cells.append("" if each.contaminated is None else f"{each.contaminated:.1%}")
            cells.append("" if each.clean is None else f"{each.clean:.4f}")
        table.add_row(Text(each.task), Text(each.metric), *cells)
    Console().print(table)
