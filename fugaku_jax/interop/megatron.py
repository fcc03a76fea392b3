"""A GPT of Megatron-LM or Megatron-DeepSpeed, opened for import.

Tensor ranks share matrices by their outputs (`query_key_value`, `dense_h_to_4h`, the vocabulary) or
by their inputs (`dense`, `dense_4h_to_h`), and matrices are `[out, in]`. How the outputs of
`query_key_value` are ordered depends on the checkpoint's version.
Source: Megatron-LM, `megatron/checkpointing.py`, `fix_query_key_value_ordering`.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from fugaku_jax.config import ModelConfig
from fugaku_jax.data.tokenizer import Tokenizer
from fugaku_jax.errors import InputError
from fugaku_jax.interop.hf_weights import Tensor, tensors
from fugaku_jax.interop.imported import Imported
from fugaku_jax.interop.megatron_files import MegatronFiles, open_files
from fugaku_jax.json_types import shown, typed

_NAMES = {
    "wte": ("word_embeddings", 0),
    "wpe": ("position_embeddings", None),
    "ln_f": ("final_layernorm", None),
    "lm_head": ("output_layer", 0),
    "ln_1": ("input_layernorm", None),
    "attn.c_attn": ("self_attention.query_key_value", 0),
    "attn.c_proj": ("self_attention.dense", 1),
    "ln_2": ("post_attention_layernorm", None),
    "mlp.c_fc": ("mlp.dense_h_to_4h", 0),
    "mlp.c_proj": ("mlp.dense_4h_to_h", 1),
}
"""Megatron's name of each module of Hugging Face's, and the dimension of its weight that tensor
ranks share; a bias is shared only with dimension 0."""
_REQUIRED = {
    "swiglu": (False,),
    "squared_relu": (False,),
    "onnx_safe": (None, False),  # GELU by erf
    "normalization": ("LayerNorm",),
    "apply_layernorm_1p": (False,),
    "add_bias_linear": (True,),
    "apply_residual_connection_post_layernorm": (False,),
    "position_embedding_type": ("learned_absolute",),
    "use_rotary_position_embeddings": (False,),
    "group_query_attention": (False,),
    "num_experts": (None, 1, [1]),
}
"""Arguments that change what the model computes, and their values where it is what ours does."""


def open_megatron(folder: Path, tokenizer: Tokenizer | None, vocab_size: int | None) -> Imported:
    """Open a checkpoint: read all but its tensors, executing nothing.

    Args:
        folder: of the checkpoint or of one of its iterations.
        tokenizer: what its data was encoded with, which the checkpoint does not hold.
        vocab_size: tokens that may have probability; the tokenizer's pieces if not given. The rest
            of the embedding's rows is padding.

    Raises:
        InputError: there is no checkpoint, it is incomplete or damaged, it holds more than plain
            data, or its model is not one of ours.
    """
    files = open_files(folder)
    pieces = tokenizer.vocab_size if tokenizer else None
    vocab_size = vocab_size or pieces or _integer(files.args, "vocab_size", 0)
    if not vocab_size:
        raise InputError(
            f"{folder} does not say which rows of its vocabulary are padding; give --tokenizer or "
            "--vocab-size."
        )
    model = _model(files, vocab_size)
    if pieces and pieces > vocab_size:
        raise InputError(
            f"The tokenizer has {pieces} pieces, but the model's vocabulary has {vocab_size}."
        )
    for tensor in tensors(model):
        _check(tensor, files)
    return Imported(model, lambda tensor: _read(tensor, files, model), tokenizer, _origin(files))


def _model(files: MegatronFiles, vocab_size: int) -> ModelConfig:
    """Return the model that the arguments describe."""
    args, where = files.args, files.folder
    for name, allowed in _REQUIRED.items():
        value = args.get(name, allowed[0])
        if value not in allowed:
            raise InputError(f"{where}: {name} is {shown(value)}, but it must be {allowed[0]!r}.")
    if not (args.get("bias_gelu_fusion", True) or args.get("openai_gelu", False)):
        raise InputError(
            f"{where}: GELU was computed by erf, as neither bias_gelu_fusion nor openai_gelu was "
            "on; our model has that by tanh."
        )
    width = _integer(args, "hidden_size")
    inner = _integer(args, "ffn_hidden_size", 4 * width)
    return ModelConfig(
        vocab_size=vocab_size,
        n_layers=_integer(args, "num_layers"),
        d_model=width,
        n_heads=_integer(args, "num_attention_heads"),
        sequence_length=_integer(args, "max_position_embeddings"),
        d_ff=None if inner == 4 * width else inner,
        tied=not args.get("untie_embeddings_and_output_weights", False),
        layer_norm_epsilon=_number(args, "layernorm_epsilon", 1e-5),
        dropout=_number(args, "hidden_dropout", 0.0),
        attention_dropout=_number(args, "attention_dropout", 0.0),
        init_std=_number(args, "init_method_std", 0.02),
    )


def _integer(args: Mapping[str, Any], name: str, default: int | None = None) -> int:
    value = args.get(name)
    if value is None and default is not None:
        return default
    return typed(int, value, f"{name} of the checkpoint's args")


def _number(args: Mapping[str, Any], name: str, default: float) -> float:
    return typed(float, args.get(name, default), f"{name} of the checkpoint's args")


def _place(tensor: Tensor) -> tuple[str, int | None]:
    """Return Megatron's name of a tensor, and which of its dimensions tensor ranks share."""
    module, kind = tensor.name.removeprefix("transformer.").rsplit(".", 1)
    layer = ""
    if tensor.layer is not None:
        layer, module = f"layers.{tensor.layer}.", module.split(".", 2)[2]
    name, shared = _NAMES[module]
    if kind == "bias" and shared:
        shared = None
    return f"{layer}{name}.{kind}", shared


def _check(tensor: Tensor, files: MegatronFiles) -> None:
    """Check that each rank has its part of a tensor."""
    name, shared = _place(tensor)
    ranks, is_matrix = len(files.ranks), len(tensor.shape) == 2
    transposed = is_matrix and tensor.layer is not None
    shape = list(tensor.shape[::-1] if transposed else tensor.shape)
    is_vocabulary = tensor.path[0] in ("tokens", "output")
    for rank, names in enumerate(files.ranks):
        if name not in names:
            raise InputError(f"{files.folder}: tensor rank {rank} has no {name}.")
        found, expected = list(names[name].shape), list(shape)
        if shared is not None:
            expected[shared] = -(-expected[shared] // ranks)
        fits = found == expected
        if is_vocabulary:  # padded, so that the ranks share it evenly
            fits = len(found) == 2 and found[0] >= expected[0] and found[1] == expected[1]
        elif shared is not None:
            fits = fits and shape[shared] % ranks == 0
        if not fits or names[name].dtype.kind not in "fV":
            raise InputError(
                f"{files.folder}: {name} of tensor rank {rank} is {names[name].dtype.name}{found}, "
                f"but its part of {shape} for {ranks} ranks would be {expected}."
            )


def _read(tensor: Tensor, files: MegatronFiles, model: ModelConfig) -> Shaped[np.ndarray, "..."]:
    """Join the parts of all ranks and bring them into the order of Hugging Face's."""
    name, shared = _place(tensor)
    parts = [names[name].read() for names in files.ranks]
    if shared is None:
        whole = parts[0]
    elif "query_key_value" in name:
        ordered = [_query_key_value(part, files.version, model) for part in parts]
        whole = np.concatenate(ordered, axis=1).reshape(-1, *parts[0].shape[1:])
    else:
        whole = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=shared)
    if tensor.path[0] in ("tokens", "output"):
        return whole[: tensor.shape[0]]
    return whole.T if whole.ndim == 2 and tensor.layer is not None else whole


def _query_key_value(
    part: Shaped[np.ndarray, "..."], version: float, model: ModelConfig
) -> Shaped[np.ndarray, "3 heads head_dim *inputs"]:
    """Bring the outputs of a rank's heads into the order query, key, value."""
    inputs, width = part.shape[1:], model.head_dim
    if version < 1:
        return part.reshape(3, -1, width, *inputs)
    if version < 2:
        return np.moveaxis(part.reshape(-1, width, 3, *inputs), 2, 0)
    return np.moveaxis(part.reshape(-1, 3, width, *inputs), 1, 0)


def _origin(files: MegatronFiles) -> dict[str, Any]:
    """Identify the checkpoint by the names, types and places of its tensors."""
    digest = hashlib.sha256()
    for names in files.ranks:
        for name, each in sorted(names.items()):
            place = [name, each.path.name, each.offset, each.dtype.name, *each.shape]
            digest.update(json.dumps(place).encode())
    return {"format": "Megatron", "path": str(files.folder), "sha256": digest.hexdigest()}
