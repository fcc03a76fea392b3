"""The model that tuning starts from, or that is graded: our run, or Hugging Face's directory."""

import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Array, PyTree

from fugaku_jax.config import ModelConfig
from fugaku_jax.data.tokenizer import Tokenizer
from fugaku_jax.errors import InputError
from fugaku_jax.interop.continual import start_from_hf
from fugaku_jax.interop.hf_import import hf_template
from fugaku_jax.interop.hf_shape import is_hf_directory, read_hf_config
from fugaku_jax.interop.load import run_tokenizer
from fugaku_jax.layout.layout import Layout
from fugaku_jax.run.checkpoint_folder import checkpoint_folder, saved_steps
from fugaku_jax.run.configuration import read_config
from fugaku_jax.run.identity import Start, read_ledger
from fugaku_jax.training.checkpoint import RunCheckpoints
from fugaku_jax.tuning.data_of_run import template_of_run

_MANIFEST = "manifest.ocdbt"


@dataclass(frozen=True)
class Base:
    """A trained model."""

    model: ModelConfig
    """Its shape."""
    tokenizer: Tokenizer
    """What its texts are made of."""
    start: Start
    """Its weights."""
    template: str | None
    """The chat template that came with it, if one did."""


def open_base(path: Path) -> Base:
    """Open a run, whose newest checkpoint is taken, or a model directory; no weight is read yet.

    Raises:
        InputError: it is neither, it is incomplete or damaged, or it has no tokenizer.
    """
    if not path.is_dir():
        raise InputError(f"{path} is no directory; give a run or a model directory.")
    if not is_hf_directory(path):
        return _run(path)
    start = start_from_hf(path)
    if start.tokenizer is None:
        raise InputError(f"{path} has no tokenizer, so dialogues cannot be told to it.")
    return Base(read_hf_config(path), start.tokenizer, start, template_of_model(path))


def _run(run_dir: Path) -> Base:
    config, steps = read_config(run_dir), saved_steps(run_dir)
    if not steps:
        raise InputError(f"{run_dir} has no checkpoint yet; train it first.")
    tokenizer, parameters = run_tokenizer(run_dir, config), functools.partial(_parameters, run_dir)
    start = Start(parameters, origin_of_run(run_dir, steps[-1]), tokenizer)
    return Base(config.model, tokenizer, start, template_of_model(run_dir))


def origin_of_run(run_dir: Path, step: int) -> dict[str, Any]:
    """Return what identifies the weights in a checkpoint of a run's, as JSON can hold it."""
    manifest = (checkpoint_folder(run_dir, step) / "state" / _MANIFEST).read_bytes()
    return {
        "format": "fugaku_jax",
        "path": str(run_dir),
        "step": step,
        "sha256": hashlib.sha256(manifest).hexdigest(),
        "ledger": read_ledger(run_dir),
    }


def template_of_model(path: Path) -> str | None:
    """Return the chat template that came with a run or a model directory; None if none did.

    Raises:
        InputError: it cannot be read.
    """
    return hf_template(path) if is_hf_directory(path) else template_of_run(path)


def _parameters(run_dir: Path, layout: Layout) -> PyTree[Array]:
    with RunCheckpoints(run_dir) as checkpoints:
        return checkpoints.restore_parameters(layout)
