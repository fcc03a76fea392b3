"""The subcommand `prepare` of data.py: recipes of corpora, by their names or files."""

import ast
import runpy
import sys
from pathlib import Path
from typing import Any, Literal

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn

from fugaku_jax.corpora.engines import PHASES, Engine, run_task
from fugaku_jax.corpora.plan import make_plan
from fugaku_jax.corpora.prepare import prepare as prepare_corpus
from fugaku_jax.corpora.recipe import CorpusRecipe, check_recipe
from fugaku_jax.corpora.report import report_tables
from fugaku_jax.errors import InputError
from fugaku_jax.processor import available_cores

RECIPES = Path(__file__).parent.parent / "configs" / "data"


def prepare(
    recipe: tyro.conf.Positional[str],
    out: Path,
    root: Path = Path("."),
    workers: int = len(available_cores()),
    engine: Engine = "local",
    engine_option: tuple[str, ...] = (),
    phase: Literal["clean", "compare", "link", "write"] | None = None,
    rank: int = 0,
) -> None:
    """Turn raw files into documents that are worth training on, and a mixture file of them.

    The same command goes on where it was stopped.

    Args:
        recipe: A recipe of configs/data, or a .py file with a function of the same name.
        out: Folder of the documents, the decisions, the report and mixture.toml.
        root: Folder that the recipe's paths are relative to.
        workers: Tasks at once; the result does not depend on it.
        engine: Processes of this machine, an executor of datatrove's (local, Slurm, Ray), or PJM.
        engine_option: NAME=VALUE for it, such as partition=cpu, time=24:00:00; elapse=24:00:00.
        phase: Run one task of this phase and no more, for a job array.
        rank: Which task.
    """
    if workers < 1:
        raise InputError(f"--workers is {workers}, but it must be at least 1.")
    plan = make_plan(load_corpus_recipe(recipe), out, root)
    if phase is not None:
        run_task(plan, phase, rank)
        return
    console = Console(stderr=True, markup=False)
    columns = "{task.description}", BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    task = [sys.executable, str(Path(__file__).with_name("data.py")), "prepare", recipe]
    task += ["--out", str(out), "--root", str(root)]
    with Progress(*columns, console=console) as bar:
        bars = {name: bar.add_task(name, total=plan.phases[name]) for name in PHASES}
        options = dict(map(_option, engine_option))
        report, timings = prepare_corpus(
            plan,
            engine,
            workers,
            options,
            task,
            lambda name, done, total: bar.update(bars[name], completed=done, total=total),
        )
    Console().print(*report_tables(report, timings))
    print(f"Next: python launch/data.py build {out}/mixture.toml --out STORE --tokenizer MODEL")


def load_corpus_recipe(name: str) -> CorpusRecipe:
    """Call a recipe's function.

    Raises:
        InputError: there is no such recipe, or it gives no recipe of a corpus.
    """
    path = Path(name) if name.endswith(".py") else RECIPES / f"{name}.py"
    known = sorted(each.stem for each in RECIPES.glob("[a-z]*.py"))
    if not path.is_file():
        raise InputError(f"{name!r} is no recipe of a corpus; there are {', '.join(known)}.")
    function = runpy.run_path(str(path), run_name=path.stem).get(path.stem)
    if function is None:
        raise InputError(f"recipe {path}: has no function `{path.stem}`.")
    return check_recipe(function(), str(path))


def _option(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise InputError(f"--engine-option {text}: must be NAME=VALUE.")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value
