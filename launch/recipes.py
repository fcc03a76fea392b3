"""Recipes by their names."""

import argparse
import runpy
from pathlib import Path

from fugaku_jax.config import Config
from fugaku_jax.errors import InputError
from fugaku_jax.interop.hf_shape import with_model_of

RECIPES = Path(__file__).parent.parent / "configs"


def load_recipe(name: str) -> Config:
    """Call the recipe `configs/NAME.py`.

    Raises:
        InputError: there is no such recipe; the sentence lists those that are.
    """
    recipes = sorted(path.stem for path in RECIPES.glob("[a-z]*.py"))
    if name not in recipes:
        raise InputError(f"{name!r} is no recipe; there are {', '.join(recipes)}.")
    return runpy.run_path(str(recipe_file(name)), run_name=name)[name]()


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
