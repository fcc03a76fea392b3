"""An index of all training tokens of a store, to find where a text stands in them.

It is a folder of shards, each a stretch of a set with its suffix array, so that it is built by all
cores, in memory for a few shards, however large the store. A shard ends where a document does,
unless that is longer than a shard: what lies across such a cut is found as two.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int, Int32

from fugaku_jax.data.ordered_map import map_in_order
from fugaku_jax.data.store import Store
from fugaku_jax.errors import InputError
from fugaku_jax.json_file import read_json
from fugaku_jax.ledger.suffixes import Suffixes, big_endian, suffix_array
from fugaku_jax.run.whole_file import replace_file, write_json

FORMAT = 1
SHARD_TOKENS = 1 << 21
"""Most tokens of a shard. Larger ones are sorted more slowly, smaller ones mean more to search."""
_INDEX = "index.json"


@dataclass(frozen=True)
class Found:
    """Where some tokens stand."""

    count: int
    """How often in all training data."""
    places: tuple[tuple[int, int], ...]
    """(set, token) of the first places found, from the first set on."""


@dataclass(frozen=True)
class _Shard:
    set_index: int
    start: int
    suffixes: Suffixes


def build_index(
    store: Store,
    folder: Path,
    workers: int = 1,
    progress: Callable[[int], None] = lambda _: None,
    shard_tokens: int = SHARD_TOKENS,
) -> None:
    """Write the index of a store; it is there when all of it is.

    Args:
        store: its training tokens.
        folder: where to; an index that is there is replaced.
        workers: threads that sort, each of which takes some 30 bytes a token of a shard.
        progress: is told how many more tokens have been sorted.
        shard_tokens: most tokens of a shard.

    Raises:
        InputError: the store is damaged, pydivsufsort is not installed, or the folder cannot be
            written.
    """
    width = 2 if store.vocab_size <= 1 << 16 else 4

    def sort(each: tuple[int, tuple[int, int, Int32[np.ndarray, "N"]]]) -> dict[str, int]:
        number, (set_index, start, tokens) = each
        text = big_endian(tokens, width)
        places = suffix_array(text, width)
        text_path, places_path = _paths(folder, number)
        replace_file(text_path, lambda file: file.write(text))
        replace_file(places_path, lambda file: file.write(places.astype("<u4").data))
        progress(len(tokens))
        return {"set": set_index, "start": start, "tokens": len(tokens)}

    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _INDEX).unlink(missing_ok=True)
        with ThreadPoolExecutor(workers) as pool:
            shards = list(
                map_in_order(pool, sort, enumerate(_stretches(store, shard_tokens)), workers)
            )
        said = {"format": FORMAT, "store": store.sha256, "token_bytes": width, "shards": shards}
        write_json(folder / _INDEX, said)
    except OSError as error:
        raise InputError(f"{folder}: no index can be written there ({error.strerror}).") from error


class TextIndex:
    """An index, mapped into memory.

    Args:
        folder: where `build_index` wrote it.
        store: what it must be of.

    Raises:
        InputError: there is none, it is damaged, or it is another store's.
    """

    def __init__(self, folder: Path, store: Store) -> None:
        if not is_there(folder):
            raise InputError(
                f"{folder}: there is no index here; make one with `launch/data.py index "
                f"{store.url} --out {folder}`."
            )
        said = read_json(folder / _INDEX)
        if said.get("format") != FORMAT:
            raise InputError(
                f"{folder}: the index is of format {said.get('format')}, and this program reads "
                f"{FORMAT}; make it anew with `launch/data.py index`."
            )
        if said.get("store") != store.sha256:
            raise InputError(
                f"{folder}: this index is of another store ({str(said.get('store'))[:12]}, not "
                f"{store.sha256[:12]}); make one of {store.url} with `launch/data.py index`."
            )
        try:
            self._width = int(said["token_bytes"])
            self._shards = [self._open(folder, *each) for each in enumerate(said["shards"])]
            if not all(each.set_index in range(len(store.sets)) for each in self._shards):
                raise ValueError("it tells of a set that is not there")
        except (KeyError, TypeError, ValueError, OSError) as error:
            raise InputError(
                f"{folder}: the index is damaged ({error}); make it anew with `launch/data.py "
                "index`."
            ) from error

    def _open(self, folder: Path, number: int, shard: dict[str, int]) -> _Shard:
        tokens = shard["tokens"]
        suffixes = Suffixes.open(*_paths(folder, number), tokens, self._width)
        return _Shard(shard["set"], shard["start"], suffixes)

    def longest(self, tokens: Int32[np.ndarray, "T"]) -> Int[np.ndarray, "T"]:
        """Return for each token how many, from it on, stand together somewhere in the data."""
        text, width = big_endian(tokens, self._width), self._width
        found = np.zeros(len(tokens), np.int64)
        for i in range(len(tokens)):
            rest = text[i * width :]
            found[i] = max((each.suffixes.longest(rest) for each in self._shards), default=0)
        return found

    def find(self, tokens: Int32[np.ndarray, "T"], most: int = 10) -> Found:
        """Return how often tokens stand in the data, and some of the places.

        Args:
            tokens: what to look for.
            most: places to return.
        """
        text = big_endian(tokens, self._width)
        count, places = 0, []
        for each in self._shards:
            found = each.suffixes.find(text)
            count += len(found)
            if len(places) < most:
                here = np.sort(found)[: most - len(places)].astype(np.int64) + each.start
                places += [(each.set_index, place) for place in here.tolist()]
        return Found(count, tuple(places))


def is_there(folder: Path) -> bool:
    """Tell whether a folder holds a whole index."""
    return (folder / _INDEX).exists()


def _paths(folder: Path, number: int) -> tuple[Path, Path]:
    return folder / f"{number}.tokens", folder / f"{number}.suffixes"


def _stretches(store: Store, most: int) -> Iterator[tuple[int, int, Int32[np.ndarray, "N"]]]:
    """Yield set, first token and tokens of the stretches of a store that become shards."""
    for set_index, each in enumerate(store.sets):
        start = 0
        while start < each.train.tokens:
            length = min(most, each.train.tokens - start)
            tokens = store.read(set_index, "train", np.array([start]), length)[0]
            if start + length < each.train.tokens:
                ends = np.flatnonzero(tokens == store.end_of_document)
                tokens = tokens[: ends[-1] + 1] if len(ends) else tokens
            yield set_index, start, tokens
            start += len(tokens)
