"""How a token store lies in its key-value store. `docs/data.md` draws it.

`store.json` names a prefix; everything else lies under that prefix. It is written last and by one
key write, so a reader sees the whole old version or the whole new one.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import tensorstore as ts

from fugaku_jax.data.kvstore import context
from fugaku_jax.errors import InputError

FORMAT = "fugaku_jax token store"
VERSION = 1
INDEX_KEY = "store.json"
PREFIX_START = "build-"
SHARD_TOKENS = 1 << 22  # a file
CHUNK_TOKENS = 1 << 14  # the least that is read
_UNBOUNDED = 1 << 60  # the length of an array that is still being written

SplitName = Literal["train", "validation"]
SPLITS: tuple[SplitName, ...] = ("train", "validation")


@dataclass(frozen=True)
class Split:
    """One side of a set: what is trained on, or what is held out."""

    tokens: int  # with one end-of-document token a document
    documents: int
    bytes: int  # of the texts in UTF-8
    xz_bytes: int | None  # of the texts one after the other under `xz -9e`; None for train
    tokens_sha256: str  # of the tokens, little endian, in the store's data type
    documents_sha256: str  # `ledger.documents.digest` of the document table


@dataclass(frozen=True)
class TokenSet:
    """One named part of a mixture."""

    name: str
    domain: str  # ja, en, math, code, …
    weight: int | float  # share in the mixture, in tokens or any other unit
    train: Split
    validation: Split


@dataclass(frozen=True)
class Index:
    """What `store.json` says."""

    prefix: str
    vocab_size: int
    end_of_document: int
    dtype: str  # uint16 or uint32
    tokenizer_sha256: str
    sets: tuple[TokenSet, ...]

    @property
    def sha256(self) -> str:
        """The root hash (hex) over everything that decides the tokens, their origin and order."""
        content = {name: value for name, value in asdict(self).items() if name != "prefix"}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def to_json(self) -> bytes:
        """The bytes of `store.json`."""
        fields = {"format": FORMAT, "version": VERSION, "sha256": self.sha256, **asdict(self)}
        return json.dumps(fields, indent=1, ensure_ascii=False).encode()

    @classmethod
    def from_json(cls, data: bytes, location: str) -> "Index":
        """Reads `store.json`. Raises InputError when it is none, newer, or has been altered."""
        corrupt = InputError(f"store {location}: {INDEX_KEY} is corrupt; build the store again.")
        try:
            fields = json.loads(data)
        except ValueError as error:
            raise corrupt from error
        if not isinstance(fields, dict) or fields.get("format") != FORMAT:
            raise InputError(f"store {location}: {INDEX_KEY} is not that of a token store.")
        if fields.get("version") != VERSION:
            raise InputError(
                f"store {location}: has format version {fields.get('version')}, this program reads "
                f"version {VERSION}; build the store again or update the program."
            )
        try:
            index = cls(
                **{key: fields[key] for key in _PLAIN_FIELDS},
                sets=tuple(_token_set(each) for each in fields["sets"]),
            )
            intact = index.sha256 == fields["sha256"] and index.prefix.startswith(PREFIX_START)
        except (KeyError, TypeError, AttributeError) as error:
            raise corrupt from error
        if not intact or "/" in index.prefix or index.dtype not in ("uint16", "uint32"):
            raise corrupt
        return index


_PLAIN_FIELDS = ("prefix", "vocab_size", "end_of_document", "dtype", "tokenizer_sha256")


def _token_set(fields: Mapping[str, Any]) -> TokenSet:
    splits = {name: Split(**fields[name]) for name in SPLITS}
    values: dict[str, Any] = {**fields, **splits}
    for split in splits.values():
        if not all(type(n) is int and n >= 0 for n in (split.tokens, split.documents, split.bytes)):
            raise TypeError
    token_set = TokenSet(**values)
    if type(token_set.name) is not str or not 0 <= token_set.weight < math.inf:
        raise TypeError
    return token_set


def token_dtype(vocab_size: int) -> str:
    """The data type of tokens: 16 bits where the vocabulary leaves room, as Megatron does."""
    return "uint16" if vocab_size < 65_500 else "uint32"


def tokenizer_key(prefix: str) -> str:
    """The key of the SentencePiece model."""
    return f"{prefix}/tokenizer.model"


def documents_key(prefix: str, set_index: int, split: SplitName) -> str:
    """The key of a document table (Parquet)."""
    return f"{prefix}/{set_index}/{split}.documents.parquet"


def create_array(root: ts.KvStore, prefix: str, set_index: int, split: SplitName, dtype: str):
    """A future of a new token array of boundless length; `resize` it when the length is known."""
    little_endian = {"name": "bytes", "configuration": {"endian": "little"}}
    checksum = {"name": "crc32c"}  # damage on the disk is an error, not other tokens
    sharding = {
        "chunk_shape": [CHUNK_TOKENS],
        "codecs": [little_endian, checksum],
        "index_codecs": [little_endian, checksum],
    }
    metadata = {
        "data_type": dtype,
        "shape": [_UNBOUNDED],
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [SHARD_TOKENS]}},
        "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
    }
    return ts.open(
        {"driver": "zarr3", "metadata": metadata},
        kvstore=root / _array_path(prefix, set_index, split),
        context=context(),
        create=True,
    )


def open_array(root: ts.KvStore, prefix: str, set_index: int, split: SplitName):
    """A future of a token array, for reading."""
    return ts.open(
        {"driver": "zarr3"},
        kvstore=root / _array_path(prefix, set_index, split),
        context=context(),
        open=True,
        read=True,
        recheck_cached_data=False,  # a prefix is written once
    )


def _array_path(prefix: str, set_index: int, split: SplitName) -> str:
    return f"{prefix}/{set_index}/{split}/"
