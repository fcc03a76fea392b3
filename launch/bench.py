"""Measure this machine: steps and generation beside PyTorch, tokenising, pipelines, scaling.

python launch/bench.py tokenize texts.jsonl.gz --tokenizer llm-jp.model
python launch/bench.py scaling --rounds 2 --json
"""

import functools
import json as json_format
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from command import parse, run_program
from rich.console import Console
from rich.table import Column, Table

Json = Annotated[bool, tyro.conf.arg(help="Print one JSON object as the last line.")]
Inputs = tyro.conf.Positional[tuple[Path, ...]]
say = functools.partial(print, file=sys.stderr, flush=True)


def step(rounds: int = 3, steps: int = 3, json: Json = False) -> None:
    """Compare a training step with the same model in PyTorch (needs `pip install .[test]`).

    Args:
        rounds: Processes that each contender gets, in turn.
        steps: Timed steps of each process.
    """
    from fugaku_jax.benchmarks.step import run

    _show_all(run(rounds, steps, say=say), json)


def generate(rounds: int = 3, calls: int = 3, json: Json = False) -> None:
    """Compare generation in bf16 with `transformers` (needs `pip install .[test]`).

    Args:
        rounds: Processes that each contender gets for each batch, in turn.
        calls: Timed calls of each process, each of 64 tokens after 64.
    """
    from fugaku_jax.benchmarks.generation import run

    _show_all(run(rounds, calls, say=say), json)


def kernels(
    rounds: int = 5,
    group: Literal["products", "attention", "adamw"] | None = None,
    json: Json = False,
) -> None:
    """Compare native kernels with XLA's and PyTorch's operations, and with the machine's limits.

    Args:
        rounds: Timed calls of each, in turn.
        group: Only these operations.
    """
    from fugaku_jax.benchmarks.kernels import compare

    _show_all(compare(rounds, group, say), json)


def tokenize(inputs: Inputs, tokenizer: Path, json: Json = False) -> None:
    """Time tokenising beside one plain SentencePiece process.

    Args:
        inputs: Files as `launch/data.py build` takes them.
        tokenizer: A SentencePiece .model file.
    """
    from fugaku_jax.benchmarks import data

    figures = data.tokenize(inputs, tokenizer)
    _show([figures], figures, json)


def load(
    store: str = "builtin",
    sequence_length: int = 2048,
    batch_size: int = 64,
    steps: int = 50,
    json: Json = False,
) -> None:
    """Time the reading of random samples from a warm file.

    Args:
        store: Folder or URL of a store, or builtin.
        sequence_length: Tokens a sample.
        batch_size: Samples a step.
        steps: Steps timed.
    """
    from fugaku_jax.benchmarks import data

    figures = data.load(store, sequence_length, batch_size, steps)
    _show([figures], figures, json)


def pipeline(json: Json = False) -> None:
    """Measure how long stages idle in 2 and 4 processes, beside the table of their schedule."""
    from fugaku_jax.benchmarks.pipeline import run

    rows = run(say=say)
    shown = ("idle_measured", "idle_modelled", "idle_formula", "ratio", "load")
    _show(rows, {"pipelines": rows}, json, *shown)


def scaling(rounds: int = 3, json: Json = False) -> None:
    """Compare a step in 1 and 2 processes of a core each, and time collectives."""
    from fugaku_jax.benchmarks.scaling import run, run_collectives

    steps, collectives = run(rounds, say=say), run_collectives(say=say)
    _show(steps, {"steps": steps, "collectives": collectives}, json)
    json or _show(collectives, {}, json, "seconds", "load")


def _show_all(figures: dict[str, Any], json: bool) -> None:
    """Show each list of rows as a table, and what else there is below them."""
    if json:
        return print(json_format.dumps(figures))
    for rows in filter(lambda value: isinstance(value, list), figures.values()):
        _show(rows, {}, json)
    others = {name: value for name, value in figures.items() if not isinstance(value, list)}
    return Console().print(others)


def _show(rows: list[dict[str, Any]], figures: dict[str, Any], json: bool, *names: str) -> None:
    if json:
        return print(json_format.dumps(figures))
    shown = [n for n in names or rows[0] if n != "contender" and not n.endswith(("_min", "_max"))]
    lines = [["contender", *shown]]
    lines += [[row["contender"], *(_cell(row, name) for name in shown)] for row in rows]
    # Names of figures are long, so a few contenders stand side by side.
    first, *others = lines if len(rows) > 8 else zip(*lines, strict=True)
    table = Table(*(Column(name, justify="right") for name in first))
    for line in others:
        table.add_row(*line)
    return Console().print(table)


def _cell(row: dict[str, Any], name: str) -> str:
    """Write a figure, with the least and the greatest of its measurements if they are known."""
    ends = (row[end] for end in (f"{name}_min", f"{name}_max") if end in row)
    value, *spread = (
        f"{x:,.3g}" if isinstance(x, float) else str(x) for x in (row.get(name, ""), *ends)
    )
    return f"{value} ({'–'.join(spread)})" if spread else value


PROGRAMS = (step, generate, kernels, tokenize, load, pipeline, scaling)


def main() -> None:
    """Read the arguments and measure."""
    parse({each.__name__: each for each in PROGRAMS}, description=__doc__)


if __name__ == "__main__":
    run_program(main)
