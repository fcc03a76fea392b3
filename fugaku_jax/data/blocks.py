"""The blocks of a split: what a reader must know to read one file of many, and to trust it.

A block is `BLOCK_ROWS` rows of the document table, or the hashes of `BLOCK_CHUNKS` chunks of
tokens; the last of each may be smaller. Its root is a node of the split's Merkle tree.
"""

import hashlib
import json
from dataclasses import asdict, dataclass

from fugaku_jax.data import store_format
from fugaku_jax.data.store_format import Split
from fugaku_jax.errors import InputError
from fugaku_jax.json_file import parse_json
from fugaku_jax.json_types import typed
from fugaku_jax.ledger import documents, merkle


@dataclass(frozen=True)
class DocumentBlock:
    """A file of the document table."""

    start: int  # first token of its first document
    root: str  # over its rows
    sha256: str  # of the file


@dataclass(frozen=True)
class Blocks:
    """What `<split>.blocks.json` says."""

    array_sha256: str | None  # of `zarr.json`; None without tokens
    tokens: tuple[str, ...]  # roots over the chunks
    documents: tuple[DocumentBlock, ...]

    def to_json(self) -> bytes:
        """The bytes of the file."""
        return json.dumps(asdict(self), indent=0).encode()

    @classmethod
    def from_json(cls, data: bytes, split: Split) -> "Blocks":
        """Reads the file of a split.

        Raises:
            ValueError: it has been altered, or leads to other roots than `store.json` says.
        """
        if hashlib.sha256(data).hexdigest() != split.blocks_sha256:
            raise ValueError("its contents have changed")
        try:
            blocks = typed(cls, parse_json(data, "the file"))
        except InputError as error:
            raise ValueError(str(error).rstrip(".")) from error
        chunks = -(-split.tokens // store_format.CHUNK_TOKENS)
        wanted = (
            -(-chunks // store_format.BLOCK_CHUNKS),
            -(-split.documents // documents.BLOCK_ROWS),
        )
        if (len(blocks.tokens), len(blocks.documents)) != wanted:
            raise ValueError(
                f"it has {len(blocks.tokens)} and {len(blocks.documents)} blocks where "
                f"{store_format.INDEX_KEY} says {wanted[0]} and {wanted[1]}"
            )
        roots = (
            joined_root(blocks.tokens),
            joined_root([each.root for each in blocks.documents]),
        )
        if roots != (split.tokens_root, split.documents_root):
            raise ValueError(f"its hashes are not those of {store_format.INDEX_KEY}")
        return blocks


def joined_root(roots: list[str] | tuple[str, ...]) -> str:
    """The root (hex) over the roots of blocks.

    Raises:
        ValueError: one of them is no hash.
    """
    return merkle.root([bytes.fromhex(each) for each in roots]).hex()
