"""Compile the real step of a recipe for its own mesh, which this machine need not have.

python launch/compile.py fugaku_llm_13b
python launch/compile.py tiny --devices 8 --mesh.tensor 2 --json
python launch/compile.py all
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from typing import Annotated

import tyro
from command import parse, run_program
from recipes import RECIPES, load_recipe, recipe_file
from rich.console import Console
from rich.table import Table

from fugaku_jax.config import Config
from fugaku_jax.planning.compile import CompiledStep, compile_emulated
from fugaku_jax.spelling import amount

Flag = tyro.conf.FlagCreatePairsOff[bool]


def compile_one(
    config: Annotated[Config, tyro.conf.arg(name="")],
    name: tyro.conf.Suppress[str],
    devices: int | None = None,
    json: Flag = False,
) -> None:
    """Compile the step of a recipe, or with `all` in its place those of all recipes.

    Args:
        config: The configuration; every field can be overridden.
        name: What it is called.
        devices: Devices there are; else what mesh.shape has, else as few as the degrees need.
        json: Print one JSON object, from names to figures.
    """
    (step,) = compile_emulated([config], [recipe_file(name)], devices)
    show({name: step}, json)


def compile_all(json: Flag = False) -> None:
    """Compile the step of every recipe.

    Args:
        json: Print one JSON object, from names to figures.
    """
    recipes = sorted(path.stem for path in RECIPES.glob("[a-z]*.py"))
    steps = compile_emulated(list(map(load_recipe, recipes)), list(map(recipe_file, recipes)))
    show(dict(zip(recipes, steps, strict=True)), json)


def show(steps: Mapping[str, CompiledStep], as_json: bool) -> None:
    """Print what was compiled: what it takes, and the learning rates beside float64."""
    if as_json:
        return print(json.dumps({name: asdict(step) for name, step in steps.items()}))
    sizes = Table(
        *("recipe", "parameters", "tokens", "devices", "compiled", "arguments", "temporary"),
        "largest group",
    )
    rates = Table("recipe", "step", "learning rate", "in float64")
    for name, step in steps.items():
        memory = (f"{amount(n)}B" for n in (step.argument_bytes, step.temporary_bytes))
        counts = f"{step.parameters:,}", amount(step.tokens), f"{step.devices:,}"
        sizes.add_row(name, *counts, f"{step.seconds:.1f} s", *memory, str(step.largest_group))
        for when, pair in step.learning_rates.items():
            rates.add_row(name, when, *(f"{rate:.9e}" for rate in pair))
    Console().print(sizes, rates)
    if len(steps) == 1:
        (step,) = steps.values()
        Console().print(collectives_table(step))
    return None


def collectives_table(step: CompiledStep) -> Table:
    """Return a table of a step's collectives, those of the largest groups first."""
    table = Table("collective", "axes", "members", "groups", "bytes", "in loops of", "instructions")
    for row in step.collectives:
        loops = " ".join(str(rounds or "?") for rounds in row.loops)
        numbers = str(row.members), f"{row.groups:,}", f"{amount(row.bytes)}B", loops
        table.add_row(row.kind, " ".join(row.axes), *numbers, str(row.count))
    return table


def main() -> None:
    """Read the arguments and compile."""
    args = sys.argv[1:]
    if args[:1] == ["all"]:
        return parse(compile_all, args[1:], prog="compile.py all")
    name = "tiny" if args[:1] in (["-h"], ["--help"]) else args.pop(0) if args else ""
    program = partial(compile_one, config=load_recipe(name), name=name)
    return parse(program, args, description=__doc__)


if __name__ == "__main__":
    run_program(main)
