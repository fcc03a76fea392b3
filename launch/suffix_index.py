"""The index that texts are found by: made where there is none, with a bar that shows how far."""

import math
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from fugaku_jax.compile_cache import user_cache
from fugaku_jax.data.store import Store
from fugaku_jax.processor import available_cores
from fugaku_jax.tracing.text_index import TextIndex, build_index, is_there


def index_of(store: Store, folder: Path | None, most: float = math.inf) -> TextIndex:
    """Return the index of a store in a folder; if none is given, that in the user's cache.

    Args:
        store: whose index.
        folder: where it is, if not in the cache.
        most: tokens of a store whose index is made if it is not there.

    Raises:
        InputError: as `TextIndex` and `build_index`.
    """
    if folder is None:
        folder = user_cache() / "suffixes" / store.sha256[:16]
        if not is_there(folder) and sum(each.train.tokens for each in store.sets) <= most:
            make_index(store, folder)
    return TextIndex(folder, store)


def make_index(store: Store, folder: Path) -> None:
    """Make the index of a store on all cores. Raises InputError as `build_index`."""
    tokens = sum(each.train.tokens for each in store.sets)
    with Progress(console=Console(stderr=True, markup=False)) as bar:
        task = bar.add_task(f"index of {store.url}", total=tokens)
        workers = len(available_cores())
        build_index(store, folder, workers, lambda more: bar.advance(task, more))
