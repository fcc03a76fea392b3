"""A model directory of Hugging Face's, opened for import."""

import hashlib
import json
import re
from pathlib import Path

import numpy as np
from jaxtyping import Shaped

from fugaku_jax.config import ModelConfig
from fugaku_jax.data.tokenizer import Tokenizer
from fugaku_jax.errors import InputError
from fugaku_jax.interop.hf_config import ARCHITECTURES
from fugaku_jax.interop.hf_shape import CONFIG, read_hf_config
from fugaku_jax.interop.hf_weights import Tensor, tensors
from fugaku_jax.interop.imported import Imported
from fugaku_jax.interop.safetensors_reader import StoredTensor, read_headers
from fugaku_jax.json_file import read_json

TOKENIZER = "tokenizer.model"
_IGNORED = re.compile(r"(^|\.)(attn\.(bias|masked_bias)|rotary_emb\.inv_freq)$")
"""Masks and wavelengths that some files hold, though they follow from the configuration."""
_PREFIXES = ("transformer.", "model.")


def open_hf(folder: Path) -> Imported:
    """Open a model directory: check configuration and headers, and read no weights.

    Raises:
        InputError: it is none, it is incomplete or damaged, its architecture is not supported, or
            its tokenizer does not fit it.
    """
    model = read_hf_config(folder)
    stored = read_headers(folder)
    named = {tensor.name: _find(tensor, stored, model, folder) for tensor in tensors(model)}
    _refuse_others(stored, named, model, folder)

    def read(tensor: Tensor) -> Shaped[np.ndarray, "..."]:
        return stored[named[tensor.name]].read()

    origin = {"format": "Hugging Face", "path": str(folder), "sha256": _digest(folder, stored)}
    origin |= {"first_token": _first_token(folder, model)}
    return Imported(model, read, read_hf_tokenizer(folder, model), origin)


def read_hf_tokenizer(folder: Path, model: ModelConfig) -> Tokenizer | None:
    """Read the SentencePiece model of a directory, if it has one.

    Raises:
        InputError: it has more pieces than the model has tokens, or it is none.
    """
    path = folder / TOKENIZER
    if not path.exists():
        return None
    tokenizer = Tokenizer.from_file(path)
    if tokenizer.vocab_size > model.vocab_size:
        raise InputError(
            f"{path} has {tokenizer.vocab_size} pieces, but the model's vocabulary has "
            f"{model.vocab_size}; give the tokenizer that it was trained with."
        )
    return tokenizer


def _find(tensor: Tensor, stored: dict[str, StoredTensor], model: ModelConfig, folder: Path) -> str:
    """Return what the files call a tensor: with the prefix of the whole model or without."""
    names = [tensor.name, *(tensor.name.removeprefix(each) for each in _PREFIXES)]
    for name in names:
        if name in stored:
            if stored[name].shape != tensor.shape:
                raise InputError(
                    f"{folder}: {name} has the shape {list(stored[name].shape)}, but by "
                    f"{CONFIG} it must have {list(tensor.shape)}."
                )
            return name
    raise InputError(
        f"{folder}: {tensor.name} is missing, which a {ARCHITECTURES[model.family]} must have."
    )


def _refuse_others(
    stored: dict[str, StoredTensor], named: dict[str, str], model: ModelConfig, folder: Path
) -> None:
    """Refuse tensors that would be left out: the model computes something that ours does not."""
    head = {"lm_head.weight"} if model.tied else set()  # the embedding once more
    others = stored.keys() - set(named.values()) - head
    others = sorted(name for name in others if not _IGNORED.search(name))
    if others:
        raise InputError(
            f"{folder} has {', '.join(others[:3])}{', …' * (len(others) > 3)}, which no "
            f"{ARCHITECTURES[model.family]} of {CONFIG}'s shape has."
        )


def _first_token(folder: Path, model: ModelConfig) -> int | None:
    """Return the token that its texts begin with, if the configuration names one."""
    token = read_json(folder / CONFIG).get("bos_token_id")
    return token if type(token) is int and 0 <= token < model.vocab_size else None


def _digest(folder: Path, stored: dict[str, StoredTensor]) -> str:
    """Hash the configuration and where the tensors lie; hashing these would take minutes."""
    digest = hashlib.sha256((folder / CONFIG).read_bytes())
    for name, each in sorted(stored.items()):
        place = [name, each.path.name, each.offset, each.dtype.name, *each.shape]
        digest.update(json.dumps(place).encode())
    return digest.hexdigest()
