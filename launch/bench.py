"""Measure this machine: a training step beside PyTorch, tokenising, loading.

python launch/bench.py step --rounds 2
python launch/bench.py tokenize texts.jsonl.gz --tokenizer llm-jp.model
python launch/bench.py load --store stores/ja --json
"""

import json as json_format
import sys
from pathlib import Path
from typing import Any

import tyro
from command import parse, run_program
from recipes import load_module
from rich.console import Console
from rich.table import Table

BENCHMARKS = Path(__file__).parent.parent / "tests" / "benchmarks"


def step(rounds: int = 3, steps: int = 3, json: bool = False) -> None:
    """Compare a training step with the same model in PyTorch (needs `pip install .[test]`).

    Args:
        rounds: Processes that each contender gets, in turn.
        steps: Timed steps of each process.
        json: Print one JSON object as the last line.
    """
    rows = load_module(BENCHMARKS / "step.py").run(
        rounds, steps, say=lambda text: print(text, file=sys.stderr)
    )
    ours = next(row for row in rows if row["contender"] == "jax_bf16")
    ratios = ("ratio_to_torch_compile_bf16", "ratio_to_torch_fp32", "memory_ratio")
    _show(rows, {"contenders": rows} | {name: ours[name] for name in ratios}, json)


def tokenize(
    inputs: tyro.conf.Positional[tuple[Path, ...]],
    tokenizer: Path,
    json: bool = False,
) -> None:
    """Time tokenising beside one plain SentencePiece process.

    Args:
        inputs: Files as `launch/data.py build` takes them.
        tokenizer: A SentencePiece .model file.
        json: Print JSON.
    """
    figures = load_module(BENCHMARKS / "data.py").tokenize(inputs, tokenizer)
    _show([figures], figures, json)


def load(
    store: str = "builtin",
    sequence_length: int = 2048,
    batch_size: int = 64,
    steps: int = 50,
    json: bool = False,
) -> None:
    """Time the reading of random samples from a warm file.

    Args:
        store: Folder or URL of a store, or builtin.
        sequence_length: Tokens a sample.
        batch_size: Samples a step.
        steps: Steps timed.
        json: Print one JSON object.
    """
    figures = load_module(BENCHMARKS / "data.py").load(store, sequence_length, batch_size, steps)
    _show([figures], figures, json)


def _show(rows: list[dict[str, Any]], figures: dict[str, Any], json: bool) -> None:
    if json:
        return print(json_format.dumps(figures))
    # Figures as rows, what was measured as columns: names are long, contenders are few.
    table = Table("")
    for row in rows:
        table.add_column(row.get("contender", ""), justify="right")
    for name in [name for name in rows[0] if name != "contender"]:
        cells = (row.get(name) for row in rows)
        table.add_row(name, *(f"{c:,.3g}" if isinstance(c, float) else str(c) for c in cells))
    return Console().print(table)


def main() -> None:
    """Read the arguments and measure."""
    parse({"step": step, "tokenize": tokenize, "load": load}, description=__doc__)


if __name__ == "__main__":
    run_program(main)
