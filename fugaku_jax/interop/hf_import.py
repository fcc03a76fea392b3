"""A model directory of Hugging Face's, opened for import."""

import hashlib
import json
from pathlib import Path

import numpy as np
from jaxtyping import Shaped

from fugaku_jax.config import ModelConfig
from fugaku_jax.data.tokenizer import Tokenizer
from fugaku_jax.errors import InputError
from fugaku_jax.interop.hf_config import ARCHITECTURES
from fugaku_jax.interop.hf_leftovers import refuse_leftovers
from fugaku_jax.interop.hf_shape import CONFIG, read_hf_config
from fugaku_jax.interop.hf_weights import Tensor, tensors
from fugaku_jax.interop.imported import Imported
from fugaku_jax.interop.safetensors_reader import StoredTensor, read_headers
from fugaku_jax.interop.tokenizer_from_json import tokenizer_from_json
from fugaku_jax.json_file import read_json
from fugaku_jax.tuning.data_of_run import read_template

TOKENIZER = "tokenizer.model"
EXPORTED_TOKENIZER = "sentencepiece.model"
"""What our exports call theirs. By the usual name llama.cpp's converter would find it, and take a
unigram model for one with merges, which cuts most texts otherwise; so it refuses the directory."""
_TEMPLATE_FILE, _TOKENIZER_CONFIG = "chat_template.jinja", "tokenizer_config.json"
_PREFIXES = ("transformer.", "model.")


def open_hf(folder: Path, tokenizer: Tokenizer | None = None) -> Imported:
    """Open a model directory: check configuration and headers, and read no weights.

    Args:
        folder: the directory.
        tokenizer: its tokenizer, if it does not have it itself.

    Raises:
        InputError: it is none, it is incomplete or damaged, its architecture is not supported, or
            its tokenizer does not fit it.
    """
    model = read_hf_config(folder)
    stored = read_headers(folder)
    named = {tensor.name: _find(tensor, stored, model, folder) for tensor in tensors(model)}
    refuse_leftovers(stored, named, model, folder)

    def read(tensor: Tensor) -> Shaped[np.ndarray, "..."]:
        return stored[named[tensor.name]].read()

    origin = {"format": "Hugging Face", "path": str(folder), "sha256": _digest(folder, stored)}
    tokenizer = _tokenizer(folder, model, tokenizer)
    origin |= _first_token(folder, tokenizer.vocab_size if tokenizer else model.vocab_size)
    return Imported(model, read, tokenizer, origin, hf_template(folder))


def hf_template(folder: Path) -> str | None:
    """Return the template of a model directory: a file of its own, or a field of the tokenizer's.

    Raises:
        InputError: it cannot be read.
    """
    path = folder / _TEMPLATE_FILE
    if path.exists():
        return read_template(path)
    if not (folder / _TOKENIZER_CONFIG).exists():
        return None
    template = read_json(folder / _TOKENIZER_CONFIG).get("chat_template")
    if isinstance(template, list):  # several, by name
        named = [each for each in template if isinstance(each, dict)]
        template = {each.get("name"): each.get("template") for each in named}.get("default")
    return template if isinstance(template, str) else None


def _tokenizer(folder: Path, model: ModelConfig, given: Tokenizer | None) -> Tokenizer | None:
    """Return the tokenizer that was given, or that of the directory, if it has one.

    Raises:
        InputError: it has more pieces than the model has tokens, or it is none.
    """
    tokenizer = given
    if tokenizer is None:
        paths = (folder / name for name in (EXPORTED_TOKENIZER, TOKENIZER))
        path = next((path for path in paths if path.exists()), None)
        tokenizer = Tokenizer.from_file(path) if path else tokenizer_from_json(folder)
    if tokenizer and tokenizer.vocab_size > model.vocab_size:
        raise InputError(
            f"The tokenizer of {folder} has {tokenizer.vocab_size} pieces, but the model's "
            f"vocabulary has {model.vocab_size}; give the tokenizer that it was trained with."
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


def _first_token(folder: Path, vocab_size: int) -> dict[str, int | None]:
    """Return the token that its texts begin with, None for none, if the configuration says that."""
    token = read_json(folder / CONFIG).get("bos_token_id", -1)
    known = token is None or (type(token) is int and 0 <= token < vocab_size)
    return {"first_token": token} if known else {}


def _digest(folder: Path, stored: dict[str, StoredTensor]) -> str:
    """Hash the configuration and where the tensors lie; hashing these would take minutes."""
    digest = hashlib.sha256((folder / CONFIG).read_bytes())
    for name, each in sorted(stored.items()):
        place = [name, each.path.name, each.offset, each.dtype.name, *each.shape]
        digest.update(json.dumps(place).encode())
    return digest.hexdigest()
