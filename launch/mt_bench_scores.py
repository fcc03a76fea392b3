"""How `evaluate.py mt-bench` shows what there is: answers alone, or scores with their picture."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from fugaku_jax.evaluation import judgments
from fugaku_jax.evaluation.judge_prompts import Asked
from fugaku_jax.evaluation.mt_bench import Question
from fugaku_jax.evaluation.task_score import TaskScore
from fugaku_jax.report.mt_bench_radar import draw_radar
from fugaku_jax.run.whole_file import replace_file, write_json

Judged = tuple[Sequence[Question], Sequence[Asked], str, Sequence[dict[str, Any]]]
"""Questions, what the judge was asked, the judge, and what was said."""


def write_prompts(path: Path, asked: Sequence[Asked]) -> None:
    """Write what a judge is asked, for whatever judge."""
    lines = (json.dumps(asdict(each), ensure_ascii=False).encode() + b"\n" for each in asked)
    replace_file(path, lambda file: file.writelines(lines))


def show_unjudged(out: Path, answers: int, prompts: int, full: int, *, as_json: bool) -> None:
    """Say what there is without a judge."""
    if as_json:
        found = {"questions": answers, "prompts": prompts, "no_room": full, "scores": None}
        print(json.dumps(found))
        return
    print(f"{out}: {answers} questions answered, and {prompts} prompts for a judge")
    print_full(full)
    print("No judge was asked, so there is no score; --judge URL --judge-model NAME asks one.")


def show_scores(
    out: Path,
    model: str,
    judged: Judged,
    full: int,
    scores: Sequence[TaskScore],
    contamination: str,
    *,
    as_json: bool,
) -> None:
    """Write and print the scores, and draw them."""
    judge = judged[2]
    categories, total = judgments.score(*judged)
    found = {"model": model, "judge": judge, "no_room": full}
    found |= {"categories": {name: asdict(each) for name, each in categories.items()}}
    found |= {"total": asdict(total), "contamination": contamination}
    found |= {"scores": [asdict(each) for each in scores]}
    write_json(out / "scores.json", found)
    means = {name: each.both.mean for name, each in categories.items()}
    drawn = {name: value for name, value in means.items() if value is not None}
    if len(drawn) >= 3:
        draw_radar({model: drawn}, out / "radar.svg")
    if as_json:
        print(json.dumps(found, ensure_ascii=False))
        return
    table = Table(title=f"MT-Bench of {model}, judged by {judge}", title_justify="left")
    table.add_column("category")
    for heading in ("turn 1", "turn 2", "both", "± standard error", "judgments", "dropped"):
        table.add_column(heading, justify="right")
    for name, each in (*categories.items(), ("total", total)):
        if name == "total":
            table.add_section()
        rated = (*each.turns, each.both)
        cells = ["none" if some.mean is None else f"{some.mean:.2f}" for some in rated]
        error = "" if each.both.standard_error is None else f"{each.both.standard_error:.2f}"
        table.add_row(name, *cells, error, f"{each.both.judgments}", f"{each.both.dropped}")
    Console().print(table)
    print_full(full)
    if scores and scores[-1].contaminated is not None:
        clean = "none" if scores[-1].clean is None else f"{scores[-1].clean:.2f}"
        share = f"{scores[-1].contaminated:.1%}"
        print(f"{share} of the questions are contaminated; the score of the others is {clean}.")
    print(contamination)


def print_full(full: int) -> None:
    """Say how many turns had no room in the model."""
    if full:
        print(f"{full} answers are empty, as what was said before fills the model.")
