"""The mean of models that began alike: often better than any of them, at no cost in use.

Models that were tuned from the same weights, or checkpoints of one run, lie in one basin of the
loss, and so does their mean. Sources: Izmailov et al. 2018 (arXiv:1803.05407), Wortsman et al. 2022
(arXiv:2203.05482). Nothing here can tell whether models began alike.
"""

import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from fugaku_jax.config import ModelConfig
from fugaku_jax.errors import InputError
from fugaku_jax.interop.hf_weights import Tensor, tensors
from fugaku_jax.interop.imported import Imported
from fugaku_jax.interop.spoken import Spoken, open_spoken


def open_average(places: Sequence[Path]) -> Imported:
    """Open models whose mean is wanted, and read no weights yet.

    A model that is named twice counts twice. Of each tensor one model's is in memory at a time, and
    the sum in fp64.

    Args:
        places: runs, of which the newest checkpoint is taken; `RUN/checkpoints/STEP`; or model
            directories of Hugging Face's.

    Raises:
        InputError: there are less than two, one cannot be read, or they differ in shape, tokenizer,
            what stands before texts, or chat template.
    """
    if len(places) < 2:
        raise InputError("A mean is of two models or more; give several, or steps of one.")
    sources = [open_spoken(place) for place in places]
    first, *others = sources
    for place, other in zip(places[1:], others, strict=True):
        for what, alike in _compared(first, other).items():
            if not alike:
                raise InputError(f"{places[0]} and {place} have no mean: {what}.")

    @functools.lru_cache(maxsize=1)  # a large tensor is asked for in parts that follow each other
    def read(tensor: Tensor) -> Float[np.ndarray, "..."]:
        total = np.zeros(tensor.shape, np.float64)
        for source in sources:
            total += source.read(tensor)
        return (total / len(sources)).astype(np.float32)

    origin = _origin(first, [source.origin for source in sources])
    return Imported(first.model, read, first.tokenizer, origin, first.chat_template)


def _compared(one: Spoken, other: Spoken) -> dict[str, bool]:
    """Return what must be alike in two models, each as the complaint that it is not."""
    ours, theirs = one.tokenizer.cuts_sha256, other.tokenizer.cuts_sha256
    return {
        "their shapes differ": _meaning(one.model) == _meaning(other.model),
        "their tokenizers differ": ours == theirs,
        "other tokens stand before their texts": one.first_token == other.first_token,
        "dialogues are told to them by different chat templates": (
            one.chat_template == other.chat_template
        ),
    }


def _meaning(model: ModelConfig) -> tuple[Any, ...]:
    """Return all that decides what weights mean."""
    numbers = model.n_heads, model.kv_heads, model.rope_theta, model.layer_norm_epsilon
    return *numbers, *tensors(model)


def _origin(first: Spoken, origins: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return what identifies the mean, and each that it is of."""
    digest = hashlib.sha256("\n".join(each["sha256"] for each in origins).encode())
    return {
        "format": "a mean of models",
        "path": ", ".join(each["path"] for each in origins),
        "sha256": digest.hexdigest(),
        "first_token": first.first_token,
        "of": list(origins),
    }
