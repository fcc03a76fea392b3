"""The adapters of a run as `peft` has them: `adapter_config.json`, `adapter_model.safetensors`.

They are for the model that the run started from, as Hugging Face's directory holds it.
Source: https://github.com/huggingface/peft, "Checkpoint format".
"""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Shaped

from fugaku_jax.config import Config, ModelConfig
from fugaku_jax.errors import InputError
from fugaku_jax.interop.hf_shape import is_hf_directory, read_hf_config
from fugaku_jax.interop.hf_weights import Tensor, tensors
from fugaku_jax.interop.safetensors_shards import LazyTensor, write_tensors
from fugaku_jax.interop.saved_weights import SavedWeights
from fugaku_jax.interop.whole_directory import whole_directory
from fugaku_jax.models.lora import lora_targets
from fugaku_jax.models.shape import shaped_like
from fugaku_jax.run.configuration import read_config
from fugaku_jax.run.identity import read_ledger

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"


def export_adapter(run_dir: Path, out: Path, base: Path | None = None) -> list[str]:
    """Write the adapters of a run's newest checkpoint as a directory that `peft` loads, in fp32.

    Args:
        run_dir: the run.
        out: the directory; it must not exist yet, or be empty. It appears when all is written.
        base: the model directory that they are loaded onto; where the run found its model, if that
            was one and none is given.

    Returns:
        the names of the files.

    Raises:
        InputError: the run has learned no adapters, or these are for another model than `base`, or
            something is in the way.
    """
    config, weights = read_config(run_dir), SavedWeights(run_dir)
    if not weights.has_adapters:
        raise InputError(
            f"{run_dir} has no adapters (its tuning.method is {config.tuning.method}, its newest "
            f"checkpoint of step {weights.step}); `to-hf` writes the whole model."
        )
    origin = read_ledger(run_dir).get("imported", {})
    if base is not None:
        _check_base(run_dir, config.model, base)
    elif origin.get("format") == "Hugging Face":
        base = Path(origin["path"])
    with whole_directory(out) as unfinished:
        text = json.dumps(_config(config, base), indent=2, ensure_ascii=False)
        (unfinished / CONFIG_FILE).write_text(text, encoding="utf-8")
        write_tensors(unfinished / WEIGHTS_FILE, _tensors(config, weights), "float32")
    return sorted(path.name for path in out.iterdir())


def _tensors(config: Config, weights: SavedWeights) -> list[LazyTensor]:
    found = []
    rank = config.tuning.rank
    for tensor in tensors(config.model):
        if not weights.is_adapted(tensor):
            continue
        inputs, outputs = tensor.shape[::-1] if tensor.transposed else tensor.shape
        name = f"base_model.model.{tensor.name.removesuffix('.weight')}"

        found += [
            LazyTensor(f"{name}.lora_A.weight", (rank, inputs), partial(_read, weights, tensor, 0)),
            LazyTensor(
                f"{name}.lora_B.weight", (outputs, rank), partial(_read, weights, tensor, 1)
            ),
        ]
    return found


def _read(weights: SavedWeights, tensor: Tensor, number: int) -> Shaped[np.ndarray, "out in"]:
    return weights.read_adapter(tensor)[number].T


def _config(config: Config, base: Path | None) -> dict[str, object]:
    tuning, model = config.tuning, config.model
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": None if base is None else str(base),
        "r": tuning.rank,
        "lora_alpha": tuning.alpha,
        "lora_dropout": 0.0,
        "target_modules": sorted({target.name for target in lora_targets(model, tuning)}),
        "fan_in_fan_out": model.family == "gpt2",
        "bias": "none",
        "inference_mode": True,
    }


def _check_base(run_dir: Path, model: ModelConfig, base: Path) -> None:
    if not is_hf_directory(base):
        raise InputError(f"--base {base} is no model directory of Hugging Face's.")
    ours, theirs = (
        vars(replace(each, d_ff=each.feed_forward, n_kv_heads=each.kv_heads))
        for each in (model, shaped_like(model, read_hf_config(base)))
    )
    differing = [
        f"model.{name} is {theirs[name]!r} there and {value!r} here"
        for name, value in ours.items()
        if value != theirs[name]
    ]
    if differing:
        raise InputError(
            f"--base {base} is another model than the adapters of {run_dir} are for: "
            f"{'; '.join(differing)}."
        )
