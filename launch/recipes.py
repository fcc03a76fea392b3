"""Recipes by their names."""

import argparse
import runpy
import shlex
from pathlib import Path
from typing import Any

from fugaku_jax.config import Config, flat_fields
from fugaku_jax.errors import InputError
from fugaku_jax.interop.hf_shape import with_model_of

RECIPES = Path(__file__).parent.parent / "configs"


def load_recipe(name: str) -> Config:
    """Call the recipe `configs/NAME.py`.

    Raises:
        InputError: there is no such recipe; the sentence lists those that are.
    """
    recipes = _names()
    if name not in recipes:
        raise InputError(f"{name!r} is no recipe; there are {', '.join(recipes)}.")
    return runpy.run_path(str(recipe_file(name)), run_name=name)[name]()


def command_of(config: Config, run_dir: Path) -> str:
    """Return the command that trains a configuration: the nearest recipe, and what differs."""
    here = flat_fields(config.to_dict())
    differing = {
        name: {x: here[x] for x, there in _fields(name).items() if here[x] != there}
        for name in _names()
    }
    name = min(differing, key=lambda name: len(differing[name]))
    arguments = ["python", "launch/train.py", name, "--run-dir", str(run_dir)]
    for path, value in differing[name].items():
        section, _, field = path.replace("_", "-").rpartition(".")
        if isinstance(value, bool):
            arguments.append(f"--{section}.{'' if value else 'no-'}{field}")
        else:
            values = value if isinstance(value, list | tuple) else [value]
            arguments += [f"--{section}.{field}", *map(str, values)]
    return shlex.join(arguments)


def _fields(name: str) -> dict[str, Any]:
    return flat_fields(load_recipe(name).to_dict())


def _names() -> list[str]:
    return sorted(path.stem for path in RECIPES.glob("[a-z]*.py"))


def recipe_file(name: str) -> Path:
    """Return the file of a recipe."""
    return RECIPES / f"{name}.py"


def continued(recipe: Config, args: list[str], run_dir: Path) -> Config:
    """Return the recipe with the model of the weights that the command line starts from, if any.

    These are those of `--from-hf`, or those that the run directory was imported with. They are
    read before the other arguments, since these override the fields of what this returns.

    Args:
        recipe: the recipe.
        args: the command line.
        run_dir: the run directory if the command line gives none.

    Raises:
        InputError: there is no model, or it is not supported.
    """
    given = _places(args, run_dir)
    if given.from_hf:
        return with_model_of(recipe, given.from_hf)
    if given.run_dir and (given.run_dir / "ledger.json").exists():
        from fugaku_jax.run.identity import with_imported_model  # takes seconds

        return with_imported_model(recipe, given.run_dir)
    return recipe


def run_directory(command: list[str]) -> Path:
    """Return where train.py keeps a run that it is called for with these arguments."""
    recipe, *args = command
    return _places(args, Path("runs") / recipe).run_dir or Path("runs") / recipe


def _places(args: list[str], run_dir: Path) -> argparse.Namespace:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--from-hf", "--from_hf", type=Path, nargs="?")
    parser.add_argument("--run-dir", "--run_dir", type=Path, nargs="?", default=run_dir)
    return parser.parse_known_args(args)[0]
