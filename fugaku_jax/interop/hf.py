"""A run as a model directory of Hugging Face's: weights, configuration, tokenizer and cards."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fugaku_jax.config import Config
from fugaku_jax.data.store import Store
from fugaku_jax.data.store_format import CROISSANT_KEY
from fugaku_jax.data.tokenizer import Tokenizer
from fugaku_jax.errors import InputError
from fugaku_jax.interop.croissant import data_read
from fugaku_jax.interop.hf_config import to_hf_config
from fugaku_jax.interop.hf_import import EXPORTED_TOKENIZER
from fugaku_jax.interop.hf_weights import Tensor, tensors
from fugaku_jax.interop.load import run_first_token, run_tokenizer
from fugaku_jax.interop.model_card import model_card
from fugaku_jax.interop.safetensors_shards import DTYPES, LazyTensor, write_shards
from fugaku_jax.interop.saved_weights import SavedWeights
from fugaku_jax.interop.tokenizer_json import puts_space_before, to_tokenizer_json
from fugaku_jax.interop.whole_directory import whole_directory
from fugaku_jax.run.configuration import read_config
from fugaku_jax.tuning.chat_template import FUGAKU
from fugaku_jax.tuning.data_of_run import template_of_run


def export_run(
    run_dir: Path,
    out: Path,
    store: Store | None,
    dtype: str,
    shard_bytes: int,
    licence: str | None = None,
) -> list[str]:
    """Write a run's newest checkpoint as a model directory, one tensor in memory at a time.

    Args:
        run_dir: the run.
        out: the directory; it must not exist yet, or be empty. It appears when all is written.
        store: the run's token store, for the tokenizer and what the card says of the data; None for
            an imported run that has read none.
        dtype: the type of the weights, `float32`, `bfloat16` or `float16`.
        shard_bytes: most bytes of tensors in a file.
        licence: of the model, for its card; that of the texts that it has read if not given.

    Returns:
        the names of the files.

    Raises:
        InputError: there is no run or no checkpoint, something is in the way, the tokenizer
            cannot be converted or is larger than the model's vocabulary, or the disk is full.
    """
    config, weights = read_config(run_dir), SavedWeights(run_dir)
    tokenizer = store.tokenizer() if store else run_tokenizer(run_dir, config)
    if tokenizer.vocab_size > config.model.vocab_size:
        place = store.url if store else run_dir
        raise InputError(
            f"The tokenizer of {place} has {tokenizer.vocab_size} pieces, but the model of "
            f"{run_dir} knows {config.model.vocab_size}; give the run's own store by --store."
        )

    def lazy(tensor: Tensor) -> LazyTensor:
        return LazyTensor(tensor.name, tensor.shape, lambda: weights.read(tensor))

    said = {} if store is None else {CROISSANT_KEY: data_read(run_dir, config, store, weights.step)}
    with whole_directory(out) as unfinished:
        first_token = run_first_token(run_dir, config, tokenizer)
        template = template_of_run(run_dir) or FUGAKU
        documents = said | _documents(config, tokenizer, first_token, dtype, template)
        begins = first_token is not None
        card = model_card(config, store, run_dir, weights.step, begins, licence)
        documents["README.md"] = card
        for name, content in documents.items():
            text = content if isinstance(content, str) else _json(content)
            (unfinished / name).write_text(text, encoding="utf-8")
        (unfinished / EXPORTED_TOKENIZER).write_bytes(tokenizer.model_bytes)
        written = [lazy(each) for each in tensors(config.model)]
        write_shards(unfinished, written, dtype, shard_bytes)
    return sorted(path.name for path in out.iterdir())


def _documents(
    config: Config, tokenizer: Tokenizer, first_token: int | None, dtype: str, template: str
) -> dict[str, Any]:
    """Return the contents of all files in JSON."""
    assert dtype in DTYPES
    fast = to_tokenizer_json(tokenizer, first_token)
    pieces = [piece for piece, _ in fast["model"]["vocab"]]
    end, ends = tokenizer.end_of_document, list(tokenizer.ends)
    return {
        "config.json": to_hf_config(config.model, first_token, ends, dtype),
        "generation_config.json": {
            "bos_token_id": first_token,
            "eos_token_id": ends,
            "pad_token_id": end,
            "do_sample": True,
        },
        "tokenizer.json": fast,
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": None if first_token is None else pieces[first_token],
            "eos_token": pieces[end],
            "unk_token": pieces[fast["model"]["unk_id"]],
            "pad_token": pieces[end],
            "clean_up_tokenization_spaces": False,
            "model_input_names": ["input_ids", "attention_mask"],  # no segments of a pair
            "padding_side": "left",  # a text that is continued ends where its row ends
            "add_prefix_space": puts_space_before(tokenizer),  # llama.cpp asks for it
            "model_max_length": config.model.sequence_length,
            "chat_template": template,
        },
    }


def _json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False)
