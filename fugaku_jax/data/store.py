"""A token store, for reading. `writer.py` makes one, `store_format.py` says how it lies."""

import numpy as np
import pyarrow as pa
import tensorstore as ts
from jaxtyping import Int, Int32

from fugaku_jax.data import store_format
from fugaku_jax.data.kvstore import open_location, storage_errors
from fugaku_jax.data.store_format import Split, SplitName, TokenSet
from fugaku_jax.data.tokenizer import Tokenizer
from fugaku_jax.errors import InputError
from fugaku_jax.ledger import documents

__all__ = ["Split", "SplitName", "Store", "TokenSet"]


class Store:
    """Tokens of several sets, each split in train and validation, with their document tables."""

    def __init__(self, url: str, root: ts.KvStore, index: store_format.Index) -> None:
        """Use `Store.open`."""
        self.url = url
        self._root = root
        self._index = index
        self._arrays = self._open_arrays()

    @classmethod
    def open(cls, url: str) -> "Store":
        """Opens the store at a folder or URL. Reads a few kilobytes; executes nothing.

        Raises:
            InputError: there is no store, it is corrupt, or it is of another format version.
        """
        root = open_location(url)
        with storage_errors(url, "read"):
            found = root.read(store_format.INDEX_KEY).result()
        if found.state != "value":
            raise InputError(
                f"store {url}: there is no token store here; "
                f"build one with `launch/data.py build --out {url} …`."
            )
        return cls(url, root, store_format.Index.from_json(found.value, url))

    @property
    def sets(self) -> tuple[TokenSet, ...]:
        """The sets, in the order of the mixture."""
        return self._index.sets

    @property
    def vocab_size(self) -> int:
        """Every token is below it."""
        return self._index.vocab_size

    @property
    def end_of_document(self) -> int:
        """The token that ends every document."""
        return self._index.end_of_document

    @property
    def sha256(self) -> str:
        """The root hash (hex) over all tokens, document tables, weights and the tokenizer."""
        return self._index.sha256

    def tokenizer(self) -> Tokenizer:
        """The tokenizer the store was made with. Raises InputError when it has been altered."""
        tokenizer = Tokenizer(self._value(store_format.tokenizer_key(self._index.prefix)))
        if tokenizer.sha256 != self._index.tokenizer_sha256:
            raise InputError(f"store {self.url}: its tokenizer is corrupt; build the store again.")
        return tokenizer

    def read(
        self, set_index: int, split: SplitName, starts: Int[np.ndarray, "N"], length: int
    ) -> Int32[np.ndarray, "N length"]:
        """Runs of tokens of one set.

        Args:
            set_index: which of `sets`.
            split: "train" or "validation".
            starts: the first token of each run.
            length: tokens a run.

        Raises:
            InputError: a run leaves the set, or the store is damaged.
        """
        array, size = self._arrays[set_index, split], getattr(self.sets[set_index], split).tokens
        first, last = int(starts.min(initial=0)), int(starts.max(initial=0))
        if len(starts) and not 0 <= first <= last <= size - length:
            raise InputError(
                f"store {self.url}: set {self.sets[set_index].name} {split} has {size} tokens, "
                f"so runs of {length} start from 0 to {size - length}; got {first} to {last}."
            )
        if array is None or not len(starts):
            return np.empty((len(starts), length), np.int32)
        with storage_errors(self.url, "read"):
            # One read of all runs stacked takes half the time of a read each.
            runs = [array[start : start + length].translate_to[0] for start in starts.tolist()]
            return ts.stack(runs).read().result().astype(np.int32)

    def documents(self, set_index: int, split: SplitName) -> pa.Table:
        """The document table: id, source, licence, sha256, start, length (tokens), bytes.

        Raises:
            InputError: the table is corrupt.
        """
        data = self._value(store_format.documents_key(self._index.prefix, set_index, split))
        try:
            table = documents.from_parquet(data)
            expected = getattr(self.sets[set_index], split).documents_sha256
            if documents.digest(table) != expected:
                raise ValueError("its contents have changed")
        except (ValueError, OSError) as error:
            raise InputError(
                f"store {self.url}: the {split} document table of set "
                f"{self.sets[set_index].name} is corrupt: {error}."
            ) from error
        return table

    def _value(self, key: str) -> bytes:
        with storage_errors(self.url, "read"):
            found = self._root.read(key).result()
        if found.state != "value":
            raise InputError(f"store {self.url}: {key} is missing; build the store again.")
        return found.value

    def _open_arrays(self) -> dict[tuple[int, SplitName], ts.TensorStore | None]:
        wanted: list[tuple[int, SplitName]] = [
            (i, split) for i in range(len(self.sets)) for split in store_format.SPLITS
        ]
        with storage_errors(self.url, "read"):
            opening = {
                (i, split): store_format.open_array(self._root, self._index.prefix, i, split)
                for i, split in wanted
                if getattr(self.sets[i], split).tokens
            }
            arrays = {key: future.result() for key, future in opening.items()}
        for (i, split), array in arrays.items():
            tokens = getattr(self.sets[i], split).tokens
            if array.shape != (tokens,) or array.dtype.name != self._index.dtype:
                raise InputError(
                    f"store {self.url}: the {split} tokens of set {self.sets[i].name} are "
                    f"{array.dtype.name}{list(array.shape)} where {store_format.INDEX_KEY} says "
                    f"{self._index.dtype}[{tokens}]; build the store again."
                )
            # What is read takes as much memory as a chunk says that it has.
            if not store_format.is_cut_as_written(array):
                raise InputError(
                    f"store {self.url}: the {split} tokens of set {self.sets[i].name} are cut in "
                    "other parts than this program cuts them; build the store again."
                )
        return {key: arrays.get(key) for key in wanted}
