"""What reads files that anybody may have made, each with good files to begin from.

A target is a function of an empty folder that returns seeds and a reader of such bytes. A reader
reads as programs do, and looks at what it has read.
"""

import gzip
import hashlib
import io
import itertools
import json
import struct
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tensorstore as ts
import zstandard

from fugaku_jax.config import (
    CheckpointConfig,
    Config,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    TrainingConfig,
    flat_fields,
)
from fugaku_jax.data import kvstore
from fugaku_jax.data.build import build_store
from fugaku_jax.data.builtin import documents
from fugaku_jax.data.corpus import LineBlock, parse_block, read_blocks
from fugaku_jax.data.inputs import InputSet, read_inputs
from fugaku_jax.data.store import Store
from fugaku_jax.data.store_format import FORMAT
from fugaku_jax.data.tokenizer import Tokenizer
from fugaku_jax.data.tokenizer import train as train_tokenizer
from fugaku_jax.errors import InputError
from fugaku_jax.inference.continuation import Options
from fugaku_jax.inference.files import _line
from fugaku_jax.interop.hf_config import to_hf_config
from fugaku_jax.interop.hf_shape import is_hf_directory, with_model_of
from fugaku_jax.interop.megatron_files import open_files
from fugaku_jax.interop.safetensors_reader import read_header, read_headers
from fugaku_jax.interop.safetensors_shards import LazyTensor, write_shards
from fugaku_jax.interop.tokenizer_from_json import tokenizer_from_json
from fugaku_jax.interop.tokenizer_json import to_tokenizer_json
from fugaku_jax.ledger.documents import from_parquet
from fugaku_jax.run.checkpoint_folder import check_history
from fugaku_jax.run.configuration import read_config
from fugaku_jax.run.data_order import open_run_order
from fugaku_jax.run.identity import (
    claim_run_dir,
    read_ledger,
    run_identity,
    with_imported_model,
)
from fugaku_jax.run.metrics import read_metrics, read_samples
from fugaku_jax.run.sessions import read_sessions, record_session

Read = Callable[[bytes], object]
Target = Callable[[Path], tuple[list[bytes], Read]]
TEXT = "むかしむかし、3 wet dogs\n\tran."


def configuration(folder: Path) -> tuple[list[bytes], Read]:
    """`config.json` of a run."""

    def read(data: bytes) -> None:
        (folder / "config.json").write_bytes(data)
        flat_fields(read_config(folder).to_dict())

    return [as_json(config().to_dict()), as_json(config("llama").to_dict())], read


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


def store_header(folder: Path) -> tuple[list[bytes], Read]:
    """`store.json`, with a hash that is right half of the time, and what it leads to."""
    store = small_store(folder)
    path = store / "store.json"
    seed = path.read_bytes()

    def read(data: bytes) -> None:
        path.write_bytes(rehashed(data) if len(data) % 2 else data)
        opened = Store.open(str(store))
        opened.tokenizer()
        for number, split in itertools.product(range(len(opened.sets)), ("train", "validation")):
            opened.read(number, split, np.array([0]), 4)

    return [seed], read


def store_arrays(folder: Path) -> tuple[list[bytes], Read]:
    """What says how the tokens of a store lie."""
    store = small_store(folder)
    path = next(store.glob("build-*/0/train/zarr.json"))
    seed = path.read_bytes()

    def read(data: bytes) -> None:
        path.write_bytes(data)
        Store.open(str(store)).read(0, "train", np.array([0, 5]), 16)

    return [seed], read


def store_tokens(folder: Path) -> tuple[list[bytes], Read]:
    """The file that holds the tokens of a store."""
    store = small_store(folder)
    path = next(store.glob("build-*/0/train/c/0"))
    seed = path.read_bytes()
    kvstore._CONTEXT = ts.Context()  # without a cache, which would know them from the last time

    def read(data: bytes) -> None:
        path.write_bytes(data)
        opened = Store.open(str(store))
        opened.read(0, "train", np.array([0, opened.sets[0].train.tokens - 16]), 16)

    return [seed], read


def document_table(folder: Path) -> tuple[list[bytes], Read]:
    """The table of a store's documents."""
    store = small_store(folder)
    seeds = [path.read_bytes() for path in store.glob("build-*/0/*.parquet")]

    def read(data: bytes) -> None:
        try:
            from_parquet(data).to_pylist()
        except ValueError as error:  # of which the store makes its sentence
            raise InputError(str(error)) from error

    return seeds, read


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


def corpus(suffix: str) -> Target:
    """Return the target of a kind of file that documents are read from."""

    def target(folder: Path) -> tuple[list[bytes], Read]:
        path = folder / f"corpus{suffix}"
        rows = [{"text": TEXT, "id": "a", "licence": "CC0"}, {"text": "二", "source": None}]
        lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode()
        table = io.BytesIO()
        pq.write_table(pa.table({"text": [TEXT, "二"], "id": ["a", None]}), table)
        seed = {
            ".jsonl": lines,
            ".jsonl.gz": gzip.compress(lines, mtime=0),
            ".jsonl.zst": zstandard.compress(lines),
            ".parquet": table.getvalue(),
            ".txt": TEXT.encode(),
        }[suffix]

        def read(data: bytes) -> None:
            path.write_bytes(data)
            for block in read_blocks(path):
                if isinstance(block, LineBlock):
                    parse_block(block)

        return [seed], read

    target.__name__ = f"corpus{suffix}"
    return target


def mixture(folder: Path) -> tuple[list[bytes], Read]:
    """A mixture file."""
    (folder / "a.jsonl").write_text('{"text": "a"}')
    path = folder / "mixture.toml"

    def read(data: bytes) -> None:
        path.write_bytes(data)
        read_inputs([path])

    seed = '[[input]]\nname = "ja"\ndomain = "ja"\nweight = 1.5\npaths = ["a.jsonl"]\n'
    return [seed.encode()], read


def prompts(_: Path) -> tuple[list[bytes], Read]:
    """A line of a file of prompts."""

    def read(data: bytes) -> None:
        _line(data, Options(max_tokens=4))

    return [as_json({"prompt": TEXT, "max_tokens": 3, "temperature": 0.5, "stop": ["a"]})], read


def metrics(folder: Path) -> tuple[list[bytes], Read]:
    """`metrics.jsonl` and `samples.jsonl`, read for a report and by a run that goes on."""
    lines = [{"step": n, "loss": 2.5 / n, "grad_norm": None, "tokens": 64 * n} for n in (1, 2, 3)]

    def read(data: bytes) -> None:
        (folder / "metrics.jsonl").write_bytes(data)
        (folder / "samples.jsonl").write_bytes(data)
        read_metrics(folder)
        read_samples(folder)

    return [b"".join(as_json(line) + b"\n" for line in lines), *map(as_json, lines)], read


def small_files(folder: Path) -> tuple[list[bytes], Read]:
    """`sessions.json` and `ledger.json`."""
    record_session(folder, 0, 4, 8)
    sessions = (folder / "sessions.json").read_bytes()

    def read(data: bytes) -> None:
        (folder / "ledger.json").write_bytes(data)
        read_ledger(folder)
        (folder / "sessions.json").write_bytes(data)
        read_sessions(folder, 10)

    return [sessions], read


def ledger(folder: Path) -> tuple[list[bytes], Read]:
    """`ledger.json`, by all that programs ask of it."""
    run, store = folder / "run", Store.open(str(small_store(folder)))
    ours = replace(
        config(),
        model=replace(config().model, vocab_size=store.vocab_size),
        data=DataConfig(store=store.url),
    )
    claim_run_dir(run, ours, store, run_identity(ours, store))
    seed = (run / "ledger.json").read_bytes()
    imported = {"imported": {"format": "Megatron", "path": "/a", "sha256": "d" * 64}}

    def read(data: bytes) -> None:
        for ask in (
            lambda: with_imported_model(ours, run),
            lambda: check_history(run, ours, read_ledger(run), has_start=True),
            lambda: open_run_order(run),
            lambda: claim_run_dir(run, ours, store, run_identity(ours, store)),
        ):
            (run / "ledger.json").write_bytes(data)
            try:
                ask()
            except InputError as error:
                refused.append(error)
        if refused:
            raise refused.pop()

    refused: list[InputError] = []
    return [seed, seed[:-2].rstrip() + as_json(imported).replace(b"{", b",", 1)], read


TARGETS: dict[str, Target] = {
    each.__name__: each
    for each in (
        *(configuration, hugging_face, safetensors, index_of_shards, store_header, store_arrays),
        *(store_tokens, document_table, tokenizer_model, tokenizer_json, megatron),
        megatron_archive,
        *map(corpus, (".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet", ".txt")),
        *(mixture, prompts, metrics, small_files, ledger),
    )
}


def config(family: str = "gpt2") -> Config:
    """Return a small configuration."""
    return Config(
        model=ModelConfig(
            vocab_size=97, n_layers=1, d_model=16, n_heads=2, sequence_length=32, family=family
        ),
        optimizer=OptimizerConfig(learning_rate=1e-3),
        training=TrainingConfig(steps=5, batch_size=2),
        checkpoint=CheckpointConfig(every=2),
    )


def as_json(value: object) -> bytes:
    """Return a value as JSON."""
    return json.dumps(value, ensure_ascii=False).encode()


def small_tokenizer(folder: Path) -> Tokenizer:
    """Return a tokenizer of 600 pieces, made once for a folder and those beside it."""
    path = folder.parent / "small.model"
    if not path.exists():
        texts = [each["text"] for each in itertools.islice(documents("ja"), 60)]
        path.write_bytes(train_tokenizer(texts, 800).model_bytes)
    return Tokenizer.from_file(path)


def small_store(folder: Path) -> Path:
    """Build a store of ten documents."""
    path = folder / "ja.jsonl"
    path.write_bytes(b"\n".join(as_json(x) for x in itertools.islice(documents("ja"), 10)))
    sets = [InputSet("ja", (path,), "ja", 1.0)]
    build_store(str(folder / "store"), sets, small_tokenizer(folder), validation=0.3)
    return folder / "store"


def rehashed(data: bytes) -> bytes:
    """Return `store.json` with the hash of what it says, if it is JSON."""
    try:
        fields = json.loads(data)
        content = {k: v for k, v in fields.items() if k not in ("format", "version", "sha256")}
        hashed = {name: value for name, value in content.items() if name != "prefix"}
        text = json.dumps(hashed, sort_keys=True)
        sha256 = hashlib.sha256(text.encode()).hexdigest()
        return json.dumps({"format": FORMAT, "version": 1, "sha256": sha256, **content}).encode()
    except (ValueError, AttributeError, RecursionError):
        return data


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
    )  # fmt: skip


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
