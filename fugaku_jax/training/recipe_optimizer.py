"""The optimizer that a recipe builds itself, from its Python file, which whoever runs it names."""

import runpy
from pathlib import Path

import optax

from fugaku_jax.config import Config
from fugaku_jax.errors import InputError


def optimizer_of_recipe(recipe: Path, config: Config) -> optax.GradientTransformation | None:
    """Call the function `optimizer` of a recipe, if the configuration asks for it.

    Args:
        recipe: its file, which is executed; never one that a run directory names.
        config: what `optimizer` is called with.

    Returns:
        the transformation that it returns; None if `optimizer.kind` is not `recipe`.

    Raises:
        InputError: the recipe has no such function.
    """
    if config.optimizer.kind != "recipe":
        return None
    defined = runpy.run_path(str(recipe), run_name=recipe.stem)
    if "optimizer" not in defined:
        raise InputError(
            f"optimizer.kind is 'recipe', but {recipe.parent.name}/{recipe.name} defines no "
            "`optimizer`; define it, as docs/optimizers.md shows, or give another kind."
        )
    return defined["optimizer"](config)
