"""How `evaluate.py perplexity` shows the scores of held-out text."""

import json
import math
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fugaku_jax.evaluation.perplexity import DomainScore, Scores
from fugaku_jax.evaluation.task_score import TaskScore


def print_json(run: Path, scores: Scores) -> None:
    """Print all figures as one JSON object."""
    derived = ("nats_per_token", "bits_per_byte", "xz_bits_per_byte")

    def figures(score: DomainScore) -> dict[str, float | None]:
        return asdict(score) | {name: getattr(score, name) for name in derived}

    domains = {name: figures(score) for name, score in scores.domains.items()}
    everything = {"run": str(run), "domains": domains, "total": figures(scores.total)}
    print(json.dumps(everything, ensure_ascii=False))


def print_table(run: Path, scores: Scores) -> None:
    """Print a table of the domains; the better of model and `xz` is bold, with a star."""
    table = Table(title=Text(f"Held-out text of {run}"), title_justify="left")
    table.add_column("domain")
    for heading in ("tokens", "bytes", "nats a token", "bits a byte", "xz bits a byte"):
        table.add_column(heading, justify="right")
    for name, score in scores.domains.items():
        table.add_row(Text(name), *cells(score))
    table.add_section()
    table.add_row("total", *cells(scores.total))
    Console().print(table)


def task_scores(scores: Scores) -> list[TaskScore]:
    """Return the figures of each domain and of all, whose items are tokens."""
    return [
        TaskScore(f"held-out {name}", metric, value, None, score.tokens)
        for name, score in (*scores.domains.items(), ("total", scores.total))
        for metric, value in (
            ("nats a token", score.nats_per_token),
            ("bits a byte", score.bits_per_byte),
        )
        if math.isfinite(value)
    ]


def cells(score: DomainScore) -> list[str]:
    """Return the figures of a row of the table."""
    bits, xz = f"{score.bits_per_byte:.3f}", "not all read"
    if score.xz_bits_per_byte is not None:
        xz = f"{score.xz_bits_per_byte:.3f}"
        if score.bits_per_byte < score.xz_bits_per_byte:
            bits = f"[bold]{bits} *[/bold]"
        else:
            xz = f"[bold]{xz} *[/bold]"
    return [f"{score.tokens:,}", f"{score.bytes:,}", f"{score.nats_per_token:.4f}", bits, xz]
