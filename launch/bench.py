"""Measure this machine: a step and its products beside PyTorch, tokenising, pipelines, scaling.

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
from recipes import load_module
from rich.console import Console
from rich.table import Column, Table

BENCHMARKS = Path(__file__).parent.parent / "tests" / "benchmarks"
Json = Annotated[bool, tyro.conf.arg(help="Print one JSON object as the last line.")]
Inputs = tyro.conf.Positional[tuple[Path, ...]]
say = functools.partial(print, file=sys.stderr, flush=True)


def step(rounds: int = 3, steps: int = 3, json: Json = False) -> None:
    """Compare a training step with the same model in PyTorch (needs `pip install .[test]`).

    Args:
        rounds: Processes that each contender gets, in turn.
        steps: Timed steps of each process.
    """
    rows = load_module(BENCHMARKS / "step.py").run(rounds, steps, say=say)
    ours = next(row for row in rows if row["contender"] == "jax_bf16")
    ratios = ("ratio_to_torch_compile_bf16", "ratio_to_torch_fp32", "memory_ratio")
    _show(rows, {"contenders": rows} | {name: ours[name] for name in ratios}, json)


def kernels(
    rounds: int = 5, dtype: Literal["float32", "bfloat16"] = "float32", json: Json = False
) -> None:
    """Compare products of the 125M and the 13B model with XLA's and PyTorch's.

    Args:
        rounds: Timed calls of each, in turn.
        dtype: Type of the operands.
    """
    module = load_module(BENCHMARKS / "kernels.py")
    rows = module.run(list(module.products(dtype)), rounds, say=say)
    names = ("gflops", "of_peak", "ratio_to_xla", "ratio_to_torch")
    _show(rows, {"products": rows}, json, *names)


def tokenize(inputs: Inputs, tokenizer: Path, json: Json = False) -> None:
    """Time tokenising beside one plain SentencePiece process.

    Args:
        inputs: Files as `launch/data.py build` takes them.
        tokenizer: A SentencePiece .model file.
    """
    figures = load_module(BENCHMARKS / "data.py").tokenize(inputs, tokenizer)
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
    figures = load_module(BENCHMARKS / "data.py").load(store, sequence_length, batch_size, steps)
    _show([figures], figures, json)


def pipeline(json: Json = False) -> None:
    """Measure how long stages idle in 2 and 4 processes, beside the table of their schedule."""
    rows = load_module(BENCHMARKS / "pipeline.py").run(say=say)
    shown = ("idle_measured", "idle_modelled", "idle_formula", "ratio", "load")
    _show(rows, {"pipelines": rows}, json, *shown)


def scaling(rounds: int = 3, json: Json = False) -> None:
    """Compare a step in 1 and 2 processes of a core each, and time collectives."""
    module = load_module(BENCHMARKS / "scaling.py")
    rows, collectives = module.run(rounds, say=say), module.run_collectives(say=say)
    _show(rows, {"steps": rows, "collectives": collectives}, json)
    json or _show(collectives, {}, json, "seconds", "seconds_min", "seconds_max", "load")


def _show(rows: list[dict[str, Any]], figures: dict[str, Any], json: bool, *names: str) -> None:
    if json:
        return print(json_format.dumps(figures))
    lines = [list(names := ("contender", *(names or [n for n in rows[0] if n != "contender"])))]
    for row in rows:
        cells = (row.get(name, "") for name in names)
        lines.append([f"{c:,.3g}" if isinstance(c, float) else str(c) for c in cells])
    # Names of figures are long, so a few contenders stand side by side.
    first, *others = lines if len(rows) > 8 else zip(*lines, strict=True)
    table = Table(*(Column(name, justify="right") for name in first))
    for line in others:
        table.add_row(*line)
    return Console().print(table)


PROGRAMS = (step, kernels, tokenize, load, pipeline, scaling)

if __name__ == "__main__":
    programs = {each.__name__: each for each in PROGRAMS}
    run_program(lambda: parse(programs, description=__doc__))
