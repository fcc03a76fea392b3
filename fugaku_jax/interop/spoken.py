"""A model with all that it needs to be spoken to, read tensor by tensor."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from fugaku_jax.config import ModelConfig
from fugaku_jax.data.tokenizer import Tokenizer
from fugaku_jax.errors import InputError
from fugaku_jax.interop.base import origin_of_run
from fugaku_jax.interop.hf_import import TOKENIZER, open_hf
from fugaku_jax.interop.hf_shape import is_hf_directory
from fugaku_jax.interop.hf_weights import Tensor
from fugaku_jax.interop.load import run_first_token, run_tokenizer
from fugaku_jax.interop.saved_weights import SavedWeights
from fugaku_jax.run.checkpoint_folder import run_and_step
from fugaku_jax.run.configuration import read_config
from fugaku_jax.tuning.chat_template import FUGAKU
from fugaku_jax.tuning.data_of_run import template_of_run


@dataclass(frozen=True)
class Spoken:
    """A model with all that it needs to be spoken to."""

    model: ModelConfig
    """Its shape."""
    read: Callable[[Tensor], Shaped[np.ndarray, "..."]]
    """Gives a tensor as Hugging Face has it."""
    tokenizer: Tokenizer
    first_token: int | None
    """What stands before every text; None for nothing."""
    chat_template: str | None
    """How a dialogue is told to it."""
    origin: dict[str, Any]
    """What identifies it, as JSON can hold it; `path` is where it lies."""


def open_spoken(path: Path) -> Spoken:
    """Open a run or a model directory of Hugging Face's.

    Args:
        path: a run, of which the newest checkpoint is taken; `RUN/checkpoints/STEP`; or the
            directory.

    Raises:
        InputError: it is neither, it is incomplete or damaged, or it has no tokenizer.
    """
    if is_hf_directory(path):
        source = open_hf(path)
        if source.tokenizer is None:
            raise InputError(f"{path} has no {TOKENIZER} to cut texts with; copy it there.")
        first = source.origin.get("first_token", source.tokenizer.end_of_document)
        given = source.model, source.read, source.tokenizer
        return Spoken(*given, first, source.template, source.origin)
    run_dir, step = run_and_step(path)
    config, weights = read_config(run_dir), SavedWeights(run_dir, step)
    tokenizer = run_tokenizer(run_dir, config)
    first = run_first_token(run_dir, config, tokenizer)
    template = template_of_run(run_dir) or FUGAKU
    origin = origin_of_run(run_dir, weights.step)
    return Spoken(config.model, weights.read, tokenizer, first, template, origin)
