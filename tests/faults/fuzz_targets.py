"""What reads files that anybody may have made, each with good files to begin from.

A target is a function of an empty folder that returns seeds and a reader of such bytes. A reader
reads as programs do, and looks at what it has read. Here are those of data and of runs.
"""

import contextlib
import gzip
import hashlib
import io
import itertools
import json
import lzma
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tensorstore as ts
import zstandard
from fuzz_models import MODELS, Read, Target
from small_inputs import TEXT, as_json, config, small_store, small_tokenizer

from fugaku_jax.config import DataConfig, flat_fields
from fugaku_jax.data import kvstore
from fugaku_jax.data.build import build_store
from fugaku_jax.data.corpus import TEXT_ENDINGS, LineBlock, parse_block, read_blocks
from fugaku_jax.data.inputs import InputSet, read_inputs
from fugaku_jax.data.proof import check_proofs, prove
from fugaku_jax.data.store import Store
from fugaku_jax.data.store_format import FORMAT, content_sha256
from fugaku_jax.data.token_blocks import read_token_blocks
from fugaku_jax.data.verify import verify_store
from fugaku_jax.errors import InputError
from fugaku_jax.inference.continuation import Options
from fugaku_jax.inference.files import _line
from fugaku_jax.interop.hf_weights import tensors
from fugaku_jax.interop.saved_weights import SavedWeights, write_weights
from fugaku_jax.json_file import read_json
from fugaku_jax.ledger.documents import from_parquet
from fugaku_jax.models.layout import make_layout
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
from fugaku_jax.training.storage_order import saved_parameter_types


def configuration(folder: Path) -> tuple[list[bytes], Read]:
    """`config.json` of a run."""

    def read(data: bytes) -> None:
        (folder / "config.json").write_bytes(data)
        flat_fields(read_config(folder).to_dict())

    return [as_json(config().to_dict()), as_json(config("llama").to_dict())], read


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
    seeds = [path.read_bytes() for path in store.glob("build-*/0/*.documents/*.parquet")]

    def read(data: bytes) -> None:
        try:
            from_parquet(data).to_pylist()
        except ValueError as error:  # of which the store makes its sentence
            raise InputError(str(error)) from error

    return seeds, read


def altered_store(pattern: str) -> Target:
    """Return the target of a kind of file of a store that is verified, traced and proven."""

    def target(folder: Path) -> tuple[list[bytes], Read]:
        store = small_store(folder)
        path = next(store.glob(pattern))
        seed = path.read_bytes()
        index = json.loads((store / "store.json").read_bytes())

        def read(data: bytes) -> None:
            path.write_bytes(data)
            # As its hash stands in `store.json`, whoever can write the one can write the other.
            rehashed = path.suffix == ".json" and len(data) % 2 == 1
            if rehashed:
                index["sets"][0]["train"]["blocks_sha256"] = hashlib.sha256(data).hexdigest()
                (store / "store.json").write_bytes(json.dumps(index, indent=1).encode())
            damages = list(verify_store(str(store)))
            assert damages or data == seed or rehashed, "damage that was not found"
            table = Store.open(str(store)).documents(0, "train")
            table.spanning(0, 100).to_pylist()
            prove(str(store), next(table.tables(["id"]))["id"][0].as_py())

        return [seed], read

    target.__name__ = f"altered.{pattern.rpartition('/')[2]}"
    return target


def proof(folder: Path) -> tuple[list[bytes], Read]:
    """A proof that a document was in a store."""
    store = small_store(folder)
    identity = next(Store.open(str(store)).documents(0, "train").tables(["id"]))["id"][0].as_py()
    seed = prove(str(store), identity)
    path = folder / "proof.json"

    def read(data: bytes) -> None:
        path.write_bytes(data)
        check_proofs(read_json(path), seed["root"])

    return [as_json(seed)], read


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
            ".jsonl.xz": lzma.compress(lines),
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


def token_index(folder: Path) -> tuple[list[bytes], Read]:
    """An `.idx` of Megatron-LM's, beside a `.bin` of five tokens."""
    (folder / "t.bin").write_bytes(np.array([5, 4, 2, 6, 2], "<i4").tobytes())
    head = struct.pack("<9sQBQQ", b"MMIDIDX\0\0", 1, 4, 3, 3)
    lists = np.array([1, 2, 2], "<i4"), np.array([0, 4, 12, 0, 2, 3], "<i8")
    return [head + b"".join(each.tobytes() for each in lists)], token_reader(folder / "t.idx")


def token_array(folder: Path) -> tuple[list[bytes], Read]:
    """A `.npy` of tokens."""
    seeds = []
    for dtype in ("<u2", "<i8"):
        np.save(folder / "t.npy", np.array([5, 4, 2, 6, 2], dtype))
        seeds.append((folder / "t.npy").read_bytes())
    return seeds, token_reader(folder / "t.npy")


def store_in_place(folder: Path) -> tuple[list[bytes], Read]:
    """`store.json` of a store that has left its tokens where they were."""
    sets = [InputSet("ja", (folder / "t.idx",), "ja", 1.0)]
    (folder / "t.idx").write_bytes(token_index(folder)[0][0])
    build_store(str(folder / "store"), sets, small_tokenizer(folder), validation=0.3, in_place=True)
    path = folder / "store/store.json"

    def read(data: bytes) -> None:
        path.write_bytes(data)
        Store.open(str(folder / "store")).read(0, "train", np.array([0]), 2)

    return [path.read_bytes()], read


def token_reader(path: Path) -> Read:
    """Return what reads the documents of a file of tokens."""

    def read(data: bytes) -> None:
        path.write_bytes(data)
        for block in read_token_blocks(path, 2):
            assert len(block.tokens) == block.bounds[-1] - block.bounds[0]

    return read


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


def checkpoint(folder: Path) -> tuple[list[bytes], Read]:
    """What a checkpoint says of one of its arrays."""
    state, read_all = saved_weights(folder)
    place = {"driver": "ocdbt", "base": f"{state.as_uri()}/"}
    key, store = b"parameters.norm.scale/zarr.json", ts.KvStore.open(place).result()
    seed = store.read(key).result().value

    def read(data: bytes) -> None:
        store.write(key, data).result()
        read_all()

    return [seed], read


def checkpoint_file(name: str, pattern: str) -> Target:
    """Return the target of a kind of file of the database that a checkpoint's arrays are in."""

    def target(folder: Path) -> tuple[list[bytes], Read]:
        state, read_all = saved_weights(folder)
        path = next(state.glob(pattern))
        seed = path.read_bytes()

        def read(data: bytes) -> None:
            path.write_bytes(data)
            read_all()

        return [seed], read

    target.__name__ = f"checkpoint.{name}"
    return target


def saved_weights(folder: Path) -> tuple[Path, Callable[[], None]]:
    """Save weights; return the folder of the arrays, and what reads all of them."""
    ours, run = config(), folder / "run"
    types = saved_parameter_types(make_layout(ours))
    write_weights(run, types, lambda _, shape, index: np.ones(shape, np.float32)[index], {})
    (run / "config.json").write_bytes(as_json(ours.to_dict()))

    def read() -> None:
        with contextlib.redirect_stderr(io.StringIO()):  # one without checksums gets a warning
            saved = SavedWeights(run)
        for tensor in tensors(ours.model):
            saved.read(tensor).sum()

    return run / "checkpoints" / "0" / "state", read


TARGETS: dict[str, Target] = {
    each.__name__: each
    for each in (
        *MODELS,
        *(configuration, store_header, store_arrays, store_tokens, document_table, proof),
        *map(altered_store, ("build-*/0/train.blocks.json", "build-*/0/train.documents/0.parquet")),
        *map(corpus, TEXT_ENDINGS),
        *(
            token_index,
            token_array,
            store_in_place,
            mixture,
            prompts,
            metrics,
            small_files,
            ledger,
            checkpoint,
        ),
        checkpoint_file("manifest", "manifest.ocdbt"),
        checkpoint_file("node", "d/*"),
    )
}


def rehashed(data: bytes) -> bytes:
    """Return `store.json` with the hash of what it says, if it is JSON."""
    try:
        fields = json.loads(data)
        content = {k: v for k, v in fields.items() if k not in ("format", "version", "sha256")}
        hashed = {name: value for name, value in content.items() if name != "prefix"}
        sides = ("train", "validation")
        hashed["sets"] = [
            each
            | {
                side: {k: v for k, v in each[side].items() if k != "blocks_sha256"}
                for side in sides
            }
            for each in hashed["sets"]
        ]
        head = {"format": FORMAT, "version": 2, "sha256": content_sha256(hashed)}
        return json.dumps(head | content).encode()
    except (ValueError, AttributeError, RecursionError, TypeError, KeyError):
        return data
