"""The shape of the model in a directory of Hugging Face's, and a recipe that takes it over."""

from dataclasses import asdict, replace
from pathlib import Path

from fugaku_jax.config import Config, ModelConfig
from fugaku_jax.errors import InputError
from fugaku_jax.interop.hf_config import from_hf_config
from fugaku_jax.json_file import read_json
from fugaku_jax.models.shape import shaped_like

CONFIG = "config.json"


def is_hf_directory(folder: Path) -> bool:
    """Tell whether a directory has the configuration of a model of Hugging Face's."""
    try:
        fields = read_json(folder / CONFIG)
    except InputError:
        return False
    return bool({"architectures", "model_type"} & fields.keys())


def read_hf_config(folder: Path) -> ModelConfig:
    """Read the shape of the model in a directory.

    Raises:
        InputError: there is none, or it is not supported.
    """
    path = folder / CONFIG
    if not path.exists():
        raise InputError(f"{folder} is no model directory: it has no {CONFIG}.")
    return from_hf_config(read_json(path), str(path))


def with_model_of(recipe: Config, folder: Path) -> Config:
    """Return a recipe for the model in a directory: its shape from there, and all else as it was.

    The length of its samples stays the recipe's where positions are rotary.

    Raises:
        InputError: there is no model, or it is not supported.
    """
    return replace(recipe, model=_in_place_of(recipe.model, folder))


def check_model(model: ModelConfig, folder: Path) -> None:
    """Refuse a model that the weights in a directory do not fit.

    Raises:
        InputError: the differing fields.
    """
    here, there = asdict(model), asdict(_in_place_of(model, folder))
    differing = [
        f"model.{name} is {here[name]!r} but {there[name]!r} in {folder}"
        for name in here
        if here[name] != there[name]
    ]
    if differing:
        raise InputError(f"{'; '.join(differing)}; with --from-hf leave that out.")


def _in_place_of(model: ModelConfig, folder: Path) -> ModelConfig:
    """Return the model in a directory, with what it leaves to a recipe's."""
    return shaped_like(model, read_hf_config(folder), "vocab_multiple")
