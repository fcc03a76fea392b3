"""Proofs that a document was in a store: its row, and hashes that lead from it to the store's root.

Whoever has the root, from a run's ledger, a checkpoint or a model card, checks a proof without the
store. It tells nothing of other documents but hashes.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import tensorstore as ts

from fugaku_jax.data import store_format
from fugaku_jax.data.document_table import DocumentTable
from fugaku_jax.data.kvstore import open_location, read_value
from fugaku_jax.data.store_format import Index, SplitName
from fugaku_jax.errors import InputError, RunError
from fugaku_jax.json_types import shown, typed
from fugaku_jax.ledger import documents, merkle
from fugaku_jax.ledger.documents import DocumentRow

FORMAT = "fugaku_jax inclusion proof"


@dataclass(frozen=True)
class ChunkProof:
    """That a chunk of tokens was in a split."""

    number: int
    leaf: str  # hash of its tokens: `merkle.leaf_hash`
    path: tuple[str, ...]


@dataclass(frozen=True)
class DocumentProof:
    """That a row was in a split's document table, and which chunks hold its tokens."""

    set_index: int
    split: SplitName
    number: int  # of the row, from 0
    start: int  # first token
    row: DocumentRow
    path: tuple[str, ...]
    chunks: tuple[ChunkProof, ...]


def prove(url: str, identity: str) -> dict[str, Any]:
    """Returns the proofs of all documents with an id, as JSON can hold them.

    Reads the ids of all documents, one file of the table, and the hashes of some chunks.

    Raises:
        InputError: there is no store, none of its documents has that id, or it is of format 1.
    """
    root = open_location(url)
    index = Index.from_json(read_value(url, root, store_format.INDEX_KEY), url)
    if index.version == 1:
        raise InputError(
            f"store {url}: is of format 1, which has no Merkle trees; build it again to prove what "
            "it holds."
        )
    proofs = [
        asdict(proof)
        for set_index in range(len(index.sets))
        for split in store_format.SPLITS
        for proof in _proofs(url, root, index, set_index, split, identity)
    ]
    if not proofs:
        raise InputError(f"document {identity}: none in {url} has this id.")
    return {"format": FORMAT, "root": index.sha256, "store": index.content, "documents": proofs}


def check_proofs(proofs: Mapping[str, Any], root: str) -> list[DocumentProof]:
    """Checks what `prove` returned, without the store.

    Args:
        proofs: as JSON gives it.
        root: of the store (hex), as the run or the model card says.

    Returns:
        The documents that were in the store of that root.

    Raises:
        InputError: this is no such object, or no root.
        RunError: it does not show that they were.
    """
    if not store_format.is_hash(root):
        raise InputError(f"--root {root:.100}: a root is 64 digits from 0 to f.")
    content, found = proofs.get("store"), proofs.get("documents")
    if proofs.get("format") != FORMAT or not isinstance(content, dict) or not found:
        raise InputError("This is no inclusion proof: it has no `format`, `store` or `documents`.")
    if not isinstance(found, list):
        raise InputError(f"documents is {shown(found)}, but it must be a list.")
    if store_format.content_sha256(content) != root:
        raise RunError(f"The proof is of another store than that of root {root}.")
    checked = []
    for number, each in enumerate(found):
        proof = typed(DocumentProof, each, f"documents[{number}]")
        try:
            side = content["sets"][proof.set_index][proof.split]
            _check(proof, side)
        except (ValueError, LookupError, TypeError) as error:
            raise RunError(
                f"The proof does not show that document {proof.row.id:.200} was in the store: "
                f"{error}."
            ) from error
        checked.append(proof)
    return checked


def _check(proof: DocumentProof, side: Mapping[str, Any]) -> None:
    """Raises ValueError unless the hashes of a proof lead to the roots of its split."""
    row, size = proof.row, store_format.CHUNK_TOKENS
    (leaf,) = documents.leaf_hashes(documents.make_table([row], proof.start))
    reached = merkle.root_of_path(leaf, proof.number, side["documents"], _hashes(proof.path))
    if reached.hex() != side["documents_root"]:
        raise ValueError("its row leads to another root")
    if row.length < 1 or proof.start < 0:
        raise ValueError("it has no tokens")
    first, last = proof.start // size, (proof.start + row.length - 1) // size
    if len(proof.chunks) != last - first + 1:
        raise ValueError(f"its tokens are in {last - first + 1} chunks, not {len(proof.chunks)}")
    chunks = -(-side["tokens"] // size)
    for number, chunk in enumerate(proof.chunks, first):
        (leaf,) = _hashes((chunk.leaf,))
        reached = merkle.root_of_path(leaf, number, chunks, _hashes(chunk.path))
        if chunk.number != number or reached.hex() != side["tokens_root"]:
            raise ValueError(f"chunk {chunk.number} of its tokens leads to another root")


def _hashes(texts: tuple[str, ...]) -> list[bytes]:
    if not all(map(store_format.is_hash, texts)):
        raise ValueError("what should be a hash is none")
    return [bytes.fromhex(each) for each in texts]


def _proofs(
    url: str, root: ts.KvStore, index: Index, set_index: int, split: SplitName, identity: str
) -> Iterator[DocumentProof]:
    table = DocumentTable(url, root, index, set_index, split)
    for number, row in table.find(identity):
        block, place = divmod(number, documents.BLOCK_ROWS)
        leaves = documents.leaf_hashes(table.block(block))
        roots = [bytes.fromhex(each.root) for each in table.blocks.documents]
        path = merkle.path(leaves, place) + merkle.path(roots, block)
        start = row.pop("start")
        first = start // store_format.CHUNK_TOKENS
        last = (start + row["length"] - 1) // store_format.CHUNK_TOKENS
        chunks = tuple(
            _chunk(url, root, (index.prefix, set_index, split), table, chunk)
            for chunk in range(first, last + 1)
        )
        yield DocumentProof(
            set_index, split, number, start, DocumentRow(**row), _texts(path), chunks
        )


def _chunk(
    url: str,
    root: ts.KvStore,
    place: tuple[str, int, SplitName],
    table: DocumentTable,
    number: int,
) -> ChunkProof:
    block, inside = divmod(number, store_format.BLOCK_CHUNKS)
    data = read_value(url, root, store_format.chunks_key(*place, block))
    hashes = [data[i : i + 32] for i in range(0, len(data), 32)]
    roots = [bytes.fromhex(each) for each in table.blocks.tokens]
    if merkle.root(hashes) != roots[block]:
        key = store_format.chunks_key(*place, block)
        raise InputError(f"store {url}: {key} is corrupt; `launch/data.py verify` says more.")
    path = merkle.path(hashes, inside) + merkle.path(roots, block)
    return ChunkProof(number, hashes[inside].hex(), _texts(path))


def _texts(hashes: list[bytes]) -> tuple[str, ...]:
    return tuple(each.hex() for each in hashes)
