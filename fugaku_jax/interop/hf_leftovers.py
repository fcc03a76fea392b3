"""Tensors of a model directory that our model has no place for: they must say nothing new."""

import re
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from fugaku_jax.config import ModelConfig
from fugaku_jax.errors import InputError
from fugaku_jax.interop.hf_config import ARCHITECTURES
from fugaku_jax.interop.hf_shape import CONFIG
from fugaku_jax.interop.hf_weights import tensors
from fugaku_jax.interop.safetensors_reader import StoredTensor

_HEAD = "lm_head.weight"
_BUFFER = re.compile(r"(?:^|\.)(attn\.bias|attn\.masked_bias|rotary_emb\.inv_freq)$")
"""Masks and wavelengths that old files hold."""


def refuse_leftovers(
    stored: dict[str, StoredTensor], named: dict[str, str], model: ModelConfig, folder: Path
) -> None:
    """Refuse a tensor that would be left out, unless what is taken says the same.

    Args:
        stored: what the files hold.
        named: what is taken of it: what they call each tensor of the model.
        model: its shape.
        folder: what errors call it by.

    Raises:
        InputError: the model computes something that ours would not.
    """
    unknown = []
    for name in sorted(stored.keys() - set(named.values())):
        tensor, buffer = stored[name].read(), _BUFFER.search(name)
        if buffer:
            if not _is_near(tensor, _buffer(buffer[1], model)):
                raise InputError(
                    f"{folder}: {name} is another than its {CONFIG} makes, which is all that our "
                    "model knows."
                )
        elif name == _HEAD and model.tied:
            embedding = stored[named[next(tensors(model)).name]].read()
            if not _is_same(tensor, embedding):
                raise InputError(
                    f"{folder}: {_HEAD} is not the embedding, but by {CONFIG} the two are one; to "
                    'use it, as transformers 5 does, say "tie_word_embeddings": false there, and '
                    "to leave it out, as transformers 4 does, take it out of the file."
                )
        else:
            unknown.append(name)
    if unknown:
        raise InputError(
            f"{folder} has {', '.join(unknown[:3])}{', …' * (len(unknown) > 3)}, which no "
            f"{ARCHITECTURES[model.family]} of {CONFIG}'s shape has."
        )


def _buffer(name: str, model: ModelConfig) -> Any:
    """Return a buffer as `transformers` makes it."""
    if name == "attn.bias":
        return np.tri(model.sequence_length, dtype=bool)[None, None]
    if name == "attn.masked_bias":
        return np.float32(-1e4)
    return model.rope_theta ** (-np.arange(0, model.head_dim, 2) / model.head_dim)


def _is_near(tensor: Shaped[np.ndarray, "..."], expected: Any) -> bool:
    """Tell whether a tensor is what was expected, but for the rounding of its type."""
    narrow = 2.0**-8 if tensor.dtype.itemsize == 2 else 1e-5
    wide = tensor.astype(np.float32)
    return wide.shape == np.shape(expected) and np.allclose(wide, expected, narrow, atol=1e-7)


def _is_same(tensor: Shaped[np.ndarray, "..."], other: Shaped[np.ndarray, "..."]) -> bool:
    """Compare two tensors row by row: they may be large."""
    return tensor.shape == other.shape and all(map(np.array_equal, tensor, other))
