"""How a token store lies in its key-value store. `docs/data.md` draws it.

`store.json` names a prefix; everything else lies under that prefix. It is written last and by one
key write, so a reader sees the whole old version or the whole new one.
"""

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from typing import Any, Literal

import tensorstore as ts

from fugaku_jax.data import store_format_1
from fugaku_jax.data.kvstore import context
from fugaku_jax.data.token_files import Place
from fugaku_jax.errors import InputError
from fugaku_jax.json_file import parse_json
from fugaku_jax.json_types import shown, typed

FORMAT = "fugaku_jax token store"
VERSION = 2
MARKED_VERSION = 3  # of a store of dialogues: each token carries the marks of `marks.py`
INDEX_KEY = "store.json"
CROISSANT_KEY = "croissant.json"  # what describes one version of the store to other programs
PREFIX_START = "build-"
SHARD_TOKENS = 1 << 22  # a file
CHUNK_TOKENS = 1 << 14  # the least that is read; a leaf of the Merkle tree
BLOCK_CHUNKS = 1 << 16  # whose hashes are a file: a power of two, so that it is a subtree
_UNBOUNDED = 1 << 60  # the length of an array that is still being written

SplitName = Literal["train", "validation"]
TokenDtype = Literal["uint16", "uint32"]
SPLITS: tuple[SplitName, ...] = ("train", "validation")


@dataclass(frozen=True)
class Split:
    """One side of a set: what is trained on, or what is held out."""

    tokens: int  # with one end-of-document token a document
    documents: int
    bytes: int  # of the texts in UTF-8
    xz_bytes: int | None  # of the texts one after the other under xz; None for train
    tokens_root: str  # Merkle root; a leaf is a chunk, little endian, in the store's data type
    documents_root: str  # Merkle root; a leaf is a row of the document table
    blocks_sha256: str | None = None  # of the file of blocks; None in format 1, which has none
    place: Place | None = None  # of the tokens, if the store has left them where they were


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
    dtype: TokenDtype
    tokenizer_sha256: str
    sets: tuple[TokenSet, ...]
    version: int = VERSION
    row_tokens: int = 0  # tokens of a row that documents were packed into; 0: they are not marked

    @property
    def content(self) -> dict[str, Any]:
        """Everything that decides the tokens, their origin and their order, as JSON can hold it.

        Not what decides only how they lie: the prefix, and bytes that are Parquet's own.
        """
        content = asdict(self)
        del content["prefix"], content["version"]
        for side in (each[split] for each in content["sets"] for split in SPLITS):
            del side["blocks_sha256"], side["place"]
        if not self.row_tokens:
            del content["row_tokens"]
        return store_format_1.downgraded(content) if self.version == 1 else content

    @property
    def sha256(self) -> str:
        """The root of the store (hex): the hash of `content`."""
        return content_sha256(self.content)

    def to_json(self) -> bytes:
        """The bytes of `store.json`."""
        head = {"format": FORMAT, "version": self.version, "sha256": self.sha256}
        fields = {name: value for name, value in asdict(self).items() if name != "version"}
        if not self.row_tokens:
            del fields["row_tokens"]
        if self.version == 1:
            fields = store_format_1.downgraded(fields)
        for side in (each[split] for each in fields["sets"] for split in SPLITS):
            if side.get("place") is None:
                side.pop("place", None)
        return json.dumps(head | fields, indent=1, ensure_ascii=False).encode()

    @classmethod
    def from_json(cls, data: bytes, location: str) -> "Index":
        """Reads `store.json`. Raises InputError when it is none, newer, or has been altered."""
        corrupt = InputError(f"store {location}: {INDEX_KEY} is corrupt; build the store again.")
        try:
            fields = parse_json(data, INDEX_KEY)
        except InputError as error:
            raise corrupt from error
        if fields.get("format") != FORMAT:
            raise InputError(f"store {location}: {INDEX_KEY} is not that of a token store.")
        version = fields.get("version")
        if version not in (1, VERSION, MARKED_VERSION):
            raise InputError(
                f"store {location}: has format version {shown(version)}, this program reads "
                f"versions 1 to {MARKED_VERSION}; build the store again or update the program."
            )
        content = {name: each for name, each in fields.items() if name not in _OF_THE_FILE}
        try:
            if version == 1:
                content = store_format_1.upgraded(content)
            index = typed(cls, content | {"version": version})
        except InputError as error:
            raise corrupt from error
        intact = index.sha256 == fields.get("sha256") and index.prefix.startswith(PREFIX_START)
        is_marked = index.row_tokens > 0 and index.dtype == "uint32"
        intact = intact and (is_marked if version == MARKED_VERSION else index.row_tokens == 0)
        if not intact or "/" in index.prefix or not all(map(_is_possible, index.sets)):
            raise corrupt
        return index


_OF_THE_FILE = ("format", "version", "sha256")


def is_hash(text: str) -> bool:
    """Tell whether a text is a sha256 in hex."""
    return re.fullmatch(r"[0-9a-f]{64}", text) is not None


def content_sha256(content: dict[str, Any]) -> str:
    """The root of a store (hex) whose `Index.content` is this."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _is_possible(token_set: TokenSet) -> bool:
    """Tell whether no size of a set is negative, and what should be a hash is one."""
    sides = token_set.train, token_set.validation
    sizes = [(side.tokens, side.documents, side.bytes) for side in sides]
    roots = [root for side in sides for root in (side.tokens_root, side.documents_root)]
    return min(token_set.weight, *sizes[0], *sizes[1]) >= 0 and all(map(is_hash, roots))


def token_dtype(vocab_size: int) -> TokenDtype:
    """The data type of tokens: 16 bits where the vocabulary leaves room, as Megatron does."""
    return "uint16" if vocab_size < 65_500 else "uint32"


def tokenizer_key(prefix: str) -> str:
    """The key of the SentencePiece model."""
    return f"{prefix}/tokenizer.model"


def documents_key(prefix: str, set_index: int, split: SplitName, block: int) -> str:
    """The key of a file of the document table (Parquet)."""
    return f"{prefix}/{set_index}/{split}.documents/{block}.parquet"


def chunks_key(prefix: str, set_index: int, split: SplitName, block: int) -> str:
    """The key of a file of the hashes of chunks, 32 bytes each."""
    return f"{prefix}/{set_index}/{split}.chunks/{block}"


def blocks_key(prefix: str, set_index: int, split: SplitName) -> str:
    """The key of what says of the files of a split where they begin and what their hashes are."""
    return f"{prefix}/{set_index}/{split}.blocks.json"


def array_key(prefix: str, set_index: int, split: SplitName) -> str:
    """The key of what says how the tokens of a split lie."""
    return f"{_array_path(prefix, set_index, split)}zarr.json"


def shard_key(prefix: str, set_index: int, split: SplitName, shard: int) -> str:
    """The key of a file of tokens."""
    return f"{_array_path(prefix, set_index, split)}c/{shard}"


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
        {"driver": "zarr3", "metadata": metadata, "store_data_equal_to_fill_value": True},
        kvstore=root / _array_path(prefix, set_index, split),
        context=ts.Context(),  # without a cache, as nothing is read again
        create=True,
    )


def open_array(
    root: ts.KvStore, index: Index, set_index: int, split: SplitName, cached: bool = True
):
    """A future of a token array, for reading; what is not cached is read from the disk."""
    return ts.open(
        # In format 1, parts that hold nothing but zeros are not there.
        {"driver": "zarr3", "fill_missing_data_reads": index.version == 1},
        kvstore=root / _array_path(index.prefix, set_index, split),
        context=context() if cached else ts.Context(),
        open=True,
        read=True,
        recheck_cached_data=False,  # a prefix is written once
    )


def is_cut_as_written(array: ts.TensorStore) -> bool:
    """Tell whether a token array is cut in the files and parts that `create_array` cuts it in."""
    layout = array.chunk_layout
    cut = layout.write_chunk.shape, layout.read_chunk.shape
    return cut == ((SHARD_TOKENS,), (CHUNK_TOKENS,))


def _array_path(prefix: str, set_index: int, split: SplitName) -> str:
    return f"{prefix}/{set_index}/{split}/"
