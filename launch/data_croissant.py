"""What a store holds, for programs that read Croissant: a command of `data.py`."""

import tyro

from fugaku_jax.data.builtin import open_store
from fugaku_jax.interop.croissant import Publication, write_croissant


def croissant(
    store: tyro.conf.Positional[str],
    name: str | None = None,
    creator: str | None = None,
    url: str | None = None,
    date: str | None = None,
) -> None:
    """Describe a store's documents in Croissant 1.1, in `croissant.json` beside them.

    Args:
        store: Folder or URL of the store, or builtin.
        name: Of the data set; the folder's, if not given.
        creator: Who has put it together.
        url: Where it is published; without it, files are named as they lie in the store.
        date: When it was published, as in 2026-01-31; today, if not given.
    """
    found = open_store(store)
    name = found.url.rstrip("/").rpartition("/")[2] if name is None else name
    print(write_croissant(found, Publication(name, url, creator, date)))
