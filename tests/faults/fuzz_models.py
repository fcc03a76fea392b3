"""Readers of models and tokenizers that other projects have made, and good files of theirs."""

import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from small_inputs import TEXT, as_json, config, small_tokenizer

from fugaku_jax.data.tokenizer import Tokenizer
from fugaku_jax.interop.hf_config import to_hf_config
from fugaku_jax.interop.hf_shape import is_hf_directory, with_model_of
from fugaku_jax.interop.megatron_files import open_files
from fugaku_jax.interop.safetensors_reader import read_header, read_headers
from fugaku_jax.interop.safetensors_shards import LazyTensor, write_shards
from fugaku_jax.interop.tokenizer_from_json import tokenizer_from_json
from fugaku_jax.interop.tokenizer_json import to_tokenizer_json

Read = Callable[[bytes], object]
Target = Callable[[Path], tuple[list[bytes], Read]]


def hugging_face(folder: Path) -> tuple[list[bytes], Read]:
    """`config.json` of a model of Hugging Face's."""

    def read(data: bytes) -> None:
        (folder / "config.json").write_bytes(data)
        is_hf_directory(folder)
        with_model_of(config(), folder)

    models = (config().model, config("llama").model)
    return [as_json(to_hf_config(model, 2, [2, 3], "float32")) for model in models], read


def safetensors(folder: Path) -> tuple[list[bytes], Read]:
    """A file of weights."""
    names = {"a": (3, 2), "b.c": (0, 2), "むかし": (4,)}
    tensors = [LazyTensor(n, s, lambda s=s: np.ones(s, np.float32)) for n, s in names.items()]
    seeds = []
    for dtype in ("float32", "bfloat16"):
        write_shards(folder, tensors, dtype, 1 << 20)
        seeds.append((folder / "model.safetensors").read_bytes())
    # Headers that are changed as JSON fit their length again.
    headers = [seed[8 : 8 + struct.unpack("<Q", seed[:8])[0]] for seed in seeds]

    def read(data: bytes) -> None:
        if data.startswith(b"{"):
            data = struct.pack("<Q", len(data)) + data + bytes(40 if b"F32" in data else 20)
        (folder / "model.safetensors").write_bytes(data)
        for tensor in read_header(folder / "model.safetensors").values():
            tensor.read().astype(np.float32).sum()

    return [*seeds, *headers], read


def index_of_shards(folder: Path) -> tuple[list[bytes], Read]:
    """`model.safetensors.index.json`."""
    tensors = [LazyTensor(n, (2,), lambda: np.ones(2, np.float32)) for n in "ab"]
    write_shards(folder, tensors, "float32", 8)
    path = folder / "model.safetensors.index.json"
    seed = path.read_bytes()

    def read(data: bytes) -> None:
        path.write_bytes(data)
        read_headers(folder)

    return [seed], read


def tokenizer_model(folder: Path) -> tuple[list[bytes], Read]:
    """A SentencePiece model."""

    def read(data: bytes) -> None:
        made = Tokenizer(data)
        made.decode(made.encode(TEXT))
        made.encode_array(TEXT)
        assert made.ends
        assert made.cuts_sha256
        if made.only_here is None:
            to_tokenizer_json(made, None)
        for token in range(min(made.vocab_size, 10)):
            made.byte(token)

    return [small_tokenizer(folder).model_bytes], read


def tokenizer_json(folder: Path) -> tuple[list[bytes], Read]:
    """`tokenizer.json` of a model of Hugging Face's."""
    seed = as_json(to_tokenizer_json(small_tokenizer(folder), 1))

    def read(data: bytes) -> None:
        (folder / "tokenizer.json").write_bytes(data)
        made = tokenizer_from_json(folder)
        if made:
            made.decode(made.encode(TEXT))

    return [seed], read


def megatron(folder: Path) -> tuple[list[bytes], Read]:
    """A file of `torch.save`: what its pickle says, in an archive that is whole."""
    (folder / "mp_rank_00").mkdir()
    path, pickle = folder / "mp_rank_00" / "model_optim_rng.pt", megatron_pickle()

    def read(data: bytes) -> None:
        path.write_bytes(archive(data))
        for tensor in open_files(folder).ranks[0].values():
            tensor.read().astype(np.float32).sum()

    return [pickle], read


def megatron_archive(folder: Path) -> tuple[list[bytes], Read]:
    """A file of `torch.save`: the archive."""
    (folder / "mp_rank_00").mkdir()
    path = folder / "mp_rank_00" / "model_optim_rng.pt"

    def read(data: bytes) -> None:
        path.write_bytes(data)
        for tensor in open_files(folder).ranks[0].values():
            tensor.read().astype(np.float32).sum()

    return [archive(megatron_pickle())], read


MODELS: tuple[Target, ...] = (
    *(hugging_face, safetensors, index_of_shards, tokenizer_model, tokenizer_json, megatron),
    megatron_archive,
)


def megatron_pickle() -> bytes:
    """Return what `torch.save` would write of a small checkpoint, without PyTorch."""
    tensor = (
        b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\n"
        b"X\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x04tQK\x00K\x02K\x02\x86K\x02K\x01\x86\x89"
        b"ccollections\nOrderedDict\n)RtR"
    )
    args = b"cargparse\nNamespace\n)\x81}(X\x0a\x00\x00\x00num_layersK\x02X\x01\x00\x00\x00aNub"
    inner = b"}X\x0e\x00\x00\x00language_model}X\x0a\x00\x00\x00layers.0.w" + tensor + b"ss"
    rng = b"]q\x05(K\x01G?\xf0\x00\x00\x00\x00\x00\x00h\x05\x88\x8a\x01\x05e"
    return (
        b"\x80\x02}q\x00(X\x04\x00\x00\x00args" + args + b"X\x05\x00\x00\x00model" + inner
        + b"X\x03\x00\x00\x00rng" + rng + b"X\x12\x00\x00\x00checkpoint_versionG@\x08"
        + bytes(6) + b"u."
    )  # fmt: skip  # fmt: skip


def archive(pickle: bytes) -> bytes:
    """Return the archive that `torch.save` would put a pickle and a storage into."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as into:
        for name, content in {
            "data.pkl": pickle,
            "byteorder": b"little",
            "data/0": bytes(16),
        }.items():
            into.writestr(zipfile.ZipInfo(f"archive/{name}"), content)
    return file.getvalue()
