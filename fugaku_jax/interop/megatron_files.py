"""The files of a Megatron checkpoint, as one list of names for each tensor rank.

Megatron-LM writes a file for each tensor rank and pipeline stage
(`iter_0000100/mp_rank_01_003/model_optim_rng.pt`), Megatron-DeepSpeed either one for each tensor
rank (`global_step100/mp_rank_01_model_states.pt`) or, with its pipeline, one for each layer and
tensor rank beside these (`layer_05-model_01-model_states.pt`).
Source: Megatron-LM, `megatron/checkpointing.py`; DeepSpeed, `runtime/pipe/module.py`.
"""

import itertools
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fugaku_jax.errors import InputError
from fugaku_jax.interop.plain_pickle import Namespace
from fugaku_jax.interop.torch_file import TorchTensor, read_torch_file
from fugaku_jax.json_types import shown

Names = dict[str, TorchTensor]

_POINTERS = ("latest_checkpointed_iteration.txt", "latest")
_MEGATRON = re.compile(r"mp_rank_(\d+)(?:_(\d+))?")
_DEEPSPEED = re.compile(r"mp_rank_(\d+)_model_states\.pt")
_LAYER = re.compile(r"layer_(\d+)-model_(\d+)-model_states\.pt")
_LONGEST_NAME = 250  # of a tensor, characters
_MOST_TENSORS = 100_000  # of a file, and what else its dictionaries hold
_NUMBERED = re.compile(r"(.*\.)?layers\.(\d+)\.(.*)")


@dataclass(frozen=True)
class MegatronFiles:
    """What a checkpoint holds."""

    folder: Path
    """Of the iteration."""
    ranks: tuple[Names, ...]
    """For each tensor rank its tensors: `word_embeddings.weight`, `position_embeddings.weight`,
    `layers.N.…` with N counted over all stages, `final_layernorm.…`, `output_layer.weight`."""
    args: Mapping[str, Any]
    """The arguments that the training was started with."""
    version: float
    """`checkpoint_version`; 0 where there is none."""


def open_files(folder: Path) -> MegatronFiles:
    """Read all files but their tensors.

    Raises:
        InputError: there is no checkpoint, a file is missing, or one is damaged or refused.
    """
    folder = _iteration(folder)
    layers = _grid(folder, _LAYER)
    states = _grid(folder, _DEEPSPEED) or _grid(folder, _MEGATRON)
    if not states:
        raise InputError(
            f"{folder} is no Megatron checkpoint: it has neither mp_rank_00/model_optim_rng.pt nor "
            "mp_rank_00_model_states.pt."
        )
    tensor_ranks = 1 + max(rank for rank, _ in states)
    stages = 1 + max(stage for _, stage in states)
    first = _file(folder, states, 0, 0)
    contents = read_torch_file(first)
    args = contents.get("args") if isinstance(contents, Mapping) else None
    if not isinstance(args, Namespace):
        raise InputError(f"{first} has no args, which say what the model is; it is too old.")
    ranks = []
    for rank in range(tensor_ranks):
        names: Names = {}
        if layers:
            _add_layer_files(names, folder, layers, rank)
        else:
            for stage in range(stages):
                _add_stage(names, _file(folder, states, rank, stage))
        ranks.append(names)
    version = contents.get("checkpoint_version") or 0
    if type(version) not in (int, float) or not 0 <= version < 4:
        raise InputError(f"{first} is of version {shown(version)}, but it must be 0 to 3.")
    return MegatronFiles(folder, tuple(ranks), args.values, float(version))


def _iteration(folder: Path) -> Path:
    """Follow the file that names the newest iteration, if there is one."""
    for name in _POINTERS:
        try:
            with (folder / name).open(encoding="utf-8", errors="replace") as file:
                latest = file.read(_LONGEST_NAME).strip()
        except OSError:
            continue
        for each in (f"iter_{latest:0>7}", f"global_step{latest}", latest):
            if latest.strip(".") and Path(each).name == each and os.path.isdir(folder / each):
                return folder / each
        raise InputError(f"{folder / name} names {shown(latest)}, which is not there.")
    return folder


def _grid(folder: Path, pattern: re.Pattern[str]) -> dict[tuple[int, int], Path]:
    """Find the files or folders of a pattern by its two numbers, the second 0 if there is none."""
    found = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        match = pattern.fullmatch(path.name)
        if match:
            first, second = (*match.groups(), None)[:2]
            found[int(first), int(second or 0)] = path
    return found


def _file(folder: Path, states: dict[tuple[int, int], Path], rank: int, stage: int) -> Path:
    if (rank, stage) not in states:
        raise InputError(
            f"{folder} is incomplete: tensor rank {rank} of pipeline stage {stage} is missing."
        )
    path = states[rank, stage]
    path = path / "model_optim_rng.pt" if path.is_dir() else path
    if not path.is_file():
        raise InputError(f"{folder} is incomplete: {path.relative_to(folder)} is missing.")
    return path


def _add_stage(names: Names, path: Path) -> None:
    """Add the tensors of a stage, whose layers are numbered from 0."""
    contents = read_torch_file(path)
    contents = contents if isinstance(contents, Mapping) else {}
    model = contents.get("model", contents.get("module"))
    if not isinstance(model, Mapping):
        what = "interleaved stages" if "model0" in contents else "no model"
        raise InputError(f"{path} has {what}, which is not supported.")
    before = 1 + max((int(m[2]) for m in map(_NUMBERED.fullmatch, names) if m), default=-1)
    for name, tensor in _flat(model, path):
        numbered = _NUMBERED.fullmatch(name)
        if numbered:
            names[f"layers.{before + int(numbered[2])}.{numbered[3]}"] = tensor
        elif "word_embeddings_for_head" not in name:  # the last stage's copy of the embedding
            names[".".join(name.split(".")[-2:])] = tensor


def _add_layer_files(
    names: Names, folder: Path, layers: dict[tuple[int, int], Path], rank: int
) -> None:
    """Add the tensors of DeepSpeed's pipeline; what a layer is shows in what it holds."""
    count = 0
    for number in sorted({number for number, _ in layers}):
        if (number, rank) not in layers:
            raise InputError(
                f"{folder} is incomplete: layer_{number:02}-model_{rank:02}-model_states.pt is "
                "missing."
            )
        path = layers[number, rank]
        contents = read_torch_file(path)
        found = dict(_flat(contents, path)) if isinstance(contents, Mapping) else {}
        if "input_layernorm.weight" in found:
            names |= {f"layers.{count}.{name}": tensor for name, tensor in found.items()}
            count += 1
        elif found.keys() == {"weight", "bias"}:
            names |= {f"final_layernorm.{name}": tensor for name, tensor in found.items()}
        elif "word_embeddings.weight" in found:
            names.update({name: tensor for name, tensor in found.items() if name not in names})
        elif "lm_head.weight" in found:
            names["output_layer.weight"] = found["lm_head.weight"]


def _flat(nested: Mapping[Any, Any], path: Path) -> Iterator[tuple[str, TorchTensor]]:
    """Flatten the nested dictionaries of a file; what is no tensor is left out."""
    count = itertools.count()

    def within(nested: Mapping[Any, Any], prefix: str) -> Iterator[tuple[str, TorchTensor]]:
        for key, value in nested.items():
            name = f"{prefix}{key}"
            if len(name) > _LONGEST_NAME or next(count) == _MOST_TENSORS:
                raise InputError(f"{path}: its dictionaries are nested without end: {name:.40}….")
            if isinstance(value, TorchTensor):
                yield name, value
            elif isinstance(value, Mapping):
                yield from within(value, f"{name}.")

    return within(nested, "")
