"""A token store, for reading. `writer.py` makes one, `store_format.py` says how it lies."""

import numpy as np
import tensorstore as ts
from jaxtyping import Int, Int32, Integer, UInt32

from fugaku_jax.data import store_format
from fugaku_jax.data.document_table import DocumentTable
from fugaku_jax.data.in_place import TokensInPlace
from fugaku_jax.data.kvstore import open_location, read_value, storage_errors
from fugaku_jax.data.marks import unmarked
from fugaku_jax.data.store_format import Split, SplitName, TokenSet
from fugaku_jax.data.tokenizer import Tokenizer
from fugaku_jax.errors import InputError

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
        """The root (hex) over all tokens, document tables, weights and the tokenizer."""
        return self._index.sha256

    def tokenizer(self) -> Tokenizer:
        """The tokenizer the store was made with. Raises InputError when it has been altered."""
        key = store_format.tokenizer_key(self._index.prefix)
        tokenizer = Tokenizer(read_value(self.url, self._root, key))
        if tokenizer.sha256 != self._index.tokenizer_sha256:
            raise InputError(f"store {self.url}: its tokenizer is corrupt; build the store again.")
        return tokenizer

    @property
    def row_tokens(self) -> int:
        """Tokens of a row that documents were packed into; 0 where they are not marked."""
        return self._index.row_tokens

    @property
    def tokenizer_file(self) -> tuple[str, str]:
        """The tokenizer's key in the store, and its sha256 in hex."""
        return store_format.tokenizer_key(self._index.prefix), self._index.tokenizer_sha256

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
        tokens = self._read(set_index, split, starts, length)
        return unmarked(tokens) if self.row_tokens else tokens.astype(np.int32)

    def read_marked(
        self, set_index: int, split: SplitName, starts: Int[np.ndarray, "N"], length: int
    ) -> UInt32[np.ndarray, "N length"]:
        """Runs of tokens with the marks of `marks.py`; as `read`.

        Raises:
            InputError: as `read`, or the store has no marks.
        """
        if not self.row_tokens:
            raise InputError(f"store {self.url}: does not say which of its tokens are answers.")
        return self._read(set_index, split, starts, length)

    def _read(
        self, set_index: int, split: SplitName, starts: Int[np.ndarray, "N"], length: int
    ) -> Integer[np.ndarray, "N length"]:
        array, size = self._arrays[set_index, split], getattr(self.sets[set_index], split).tokens
        first, last = int(starts.min(initial=0)), int(starts.max(initial=0))
        if len(starts) and not 0 <= first <= last <= size - length:
            raise InputError(
                f"store {self.url}: set {self.sets[set_index].name} {split} has {size} tokens, "
                f"so runs of {length} start from 0 to {size - length}; got {first} to {last}."
            )
        if array is None or not len(starts):
            return np.empty((len(starts), length), self._index.dtype)
        if isinstance(array, TokensInPlace):
            return np.stack([array.read(start, start + length) for start in starts.tolist()])
        with storage_errors(self.url, "read"):
            # One read of all runs stacked takes half the time of a read each.
            runs = [array[start : start + length].translate_to[0] for start in starts.tolist()]
            return ts.stack(runs).read().result()

    def documents(self, set_index: int, split: SplitName) -> DocumentTable:
        """The document table of one side of a set; what it is asked for is read then."""
        return DocumentTable(self.url, self._root, self._index, set_index, split)

    def _open_arrays(self) -> dict[tuple[int, SplitName], ts.TensorStore | TokensInPlace | None]:
        wanted: list[tuple[int, SplitName]] = [
            (i, split) for i in range(len(self.sets)) for split in store_format.SPLITS
        ]
        with storage_errors(self.url, "read"):
            opening = {
                (i, split): store_format.open_array(self._root, self._index, i, split)
                for i, split in wanted
                if getattr(self.sets[i], split).tokens and not getattr(self.sets[i], split).place
            }
            opened = {key: future.result() for key, future in opening.items()}
        for (i, split), array in opened.items():
            check_array(array, self.url, self._index, i, split)
        arrays: dict[tuple[int, SplitName], ts.TensorStore | TokensInPlace] = {**opened}
        for i, split in wanted:
            if getattr(self.sets[i], split).place:
                arrays[i, split] = TokensInPlace(self.url, self._root, self._index, i, split)
        return {key: arrays.get(key) for key in wanted}


def check_array(
    array: ts.TensorStore, url: str, index: store_format.Index, set_index: int, split: SplitName
) -> None:
    """Raises InputError unless a token array is as `store.json` says."""
    name = f"the {split} tokens of set {index.sets[set_index].name}"
    tokens = getattr(index.sets[set_index], split).tokens
    if array.shape != (tokens,) or array.dtype.name != index.dtype:
        raise InputError(
            f"store {url}: {name} are {array.dtype.name}{list(array.shape)} where "
            f"{store_format.INDEX_KEY} says {index.dtype}[{tokens}]; build the store again."
        )
    # What is read takes as much memory as a chunk says that it has.
    if not store_format.is_cut_as_written(array):
        raise InputError(
            f"store {url}: {name} are cut in other parts than this program cuts them; build the "
            "store again."
        )
