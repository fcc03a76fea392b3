"""Score a trained model.

python launch/evaluate.py perplexity runs/tiny
python launch/evaluate.py perplexity runs/tiny --max-tokens 100000 --json
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import tyro
from command import parse, run_program
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fugaku_jax.compile_cache import use_compile_cache
from fugaku_jax.errors import InputError
from fugaku_jax.evaluation.perplexity import DomainScore, Perplexity, Scores
from fugaku_jax.run.identity import open_run_store
from fugaku_jax.training.checkpoint import load_model

Run = tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="RUN")]]


def perplexity(
    run: Run,
    max_tokens: int | None = None,
    store: str | None = None,
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
) -> None:
    """Print nats a token and bits a byte on the held-out text, beside `xz`.

    Args:
        run: Run directory; its newest checkpoint is scored.
        max_tokens: Most held-out tokens of a domain, in whole documents; all without it.
        store: Folder or URL of the run's store, if it is no longer where the run found it.
        json: Print one JSON object instead of a table.
    """
    if max_tokens is not None and max_tokens < 1:
        raise InputError(f"--max-tokens is {max_tokens}, but it must be greater than 0.")
    use_compile_cache()
    config, model = load_model(run)
    held_out = open_run_store(run, config, store)
    scores = Perplexity(held_out, config, max_tokens)(model)
    if not scores.domains:
        raise InputError(f"{held_out.url} has no held-out documents; build it with some.")
    if json:
        print_json(run, scores)
    else:
        print_table(run, scores)


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


def main() -> None:
    """Read the arguments and evaluate."""
    parse({"perplexity": perplexity}, description=__doc__)


if __name__ == "__main__":
    run_program(main)
