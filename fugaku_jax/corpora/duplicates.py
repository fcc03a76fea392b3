"""The phases that compare documents: records of all tasks, a range of hashes at a time; then links.

Memory is that of one range, and of all copies in `link`. The kept copy is the first in the recipe's
order, whoever works when.
"""

import bisect
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Shaped, UInt64
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from fugaku_jax.corpora.plan import CorpusPlan
from fugaku_jax.run.whole_file import replace_file

KINDS = ("text", "id", "bands")
"""By what documents are alike: the same text, the same name, a band of MinHash."""
_LEAST_PAIRS = 1 << 20  # that `link` joins at a time


def compare(plan: CorpusPlan, task: int) -> None:
    """Find documents that are alike among those whose hashes are in the task's range."""
    clock = time.process_time()
    for kind in KINDS:
        if kind == "bands":
            near = plan.recipe.near_duplicates
            pairs = [_pairs(plan, kind, task, band) for band in range(near.bands if near else 0)]
        else:
            pairs = [_pairs(plan, kind, task)]
        found = np.unique(np.concatenate([*pairs, np.empty((0, 2), np.uint64)]), axis=0)
        _save(plan.work("compare", f"{task:06d}.{kind}.npy"), found)
    plan.set_mark("compare", task, seconds=time.process_time() - clock)


def link(plan: CorpusPlan, task: int) -> None:
    """Join what was found to groups, and say of which earlier document each one is a copy."""
    clock = time.process_time()
    for kind in KINDS:
        tasks = range(plan.phases["compare"])
        files = (plan.work("compare", f"{each:06d}.{kind}.npy") for each in tasks)
        joined = joined_pairs(np.load(file) for file in files)
        _save(plan.work("link", f"{kind}.npy"), np.ascontiguousarray(joined.T))
    plan.set_mark("link", task, seconds=time.process_time() - clock)


def copies(plan: CorpusPlan, kind: str, first: int, last: int) -> dict[int, int]:
    """Return the copies among some documents, each with the first of its group.

    Args:
        plan: what is prepared, linked.
        kind: by what they are alike.
        first: the order of the first of these documents.
        last: that of the last.
    """
    documents, firsts = np.load(plan.work("link", f"{kind}.npy"), mmap_mode="r")
    low, high = np.searchsorted(documents, np.array([first, last + 1], np.uint64))
    return dict(zip(documents[low:high].tolist(), firsts[low:high].tolist(), strict=True))


def joined_pairs(files: Iterable[UInt64[np.ndarray, "n 2"]]) -> UInt64[np.ndarray, "m 2"]:
    """Return the documents of each connected group but its first, each with that, by their order.

    As many pairs are joined at a time as there are copies already, so that memory is that of the
    copies, however often each was found.
    """
    joined = np.empty((0, 2), np.uint64)
    waiting, number = [], 0
    for pairs in files:
        waiting.append(pairs)
        number += len(pairs)
        if number >= max(len(joined), _LEAST_PAIRS):
            joined = _firsts(np.concatenate([joined, *waiting]))
            waiting, number = [], 0
    return _firsts(np.concatenate([joined, *waiting])) if number else joined


def _pairs(plan: CorpusPlan, kind: str, task: int, band: int = 0) -> UInt64[np.ndarray, "n 2"]:
    """Each document of a range of hashes with the first one that is alike."""
    records = np.concatenate(list(_ranges(plan, kind, task, band)))
    records = np.sort(records)  # by hash, then by order
    names = [name for name in records.dtype.names or () if name != "order"]
    same = np.ones(max(len(records) - 1, 0), bool)
    for name in names:
        same &= records[name][1:] == records[name][:-1]
    begins = np.flatnonzero(np.concatenate([[True], ~same])) if len(records) else np.empty(0, int)
    lengths = np.diff(np.append(begins, len(records)))
    first = np.repeat(records["order"][begins], lengths)
    pairs = np.stack([records["order"], first], axis=1)
    return pairs[pairs[:, 0] != pairs[:, 1]]


def _ranges(
    plan: CorpusPlan, kind: str, task: int, band: int
) -> Iterator[Shaped[np.ndarray, "records"]]:
    """The records of each cleaning task whose hashes are in a comparing task's range."""
    tasks = plan.phases["compare"]
    ends = [(each << 64) // tasks for each in (task, task + 1)]
    for each in range(plan.phases["clean"]):
        records = np.load(plan.work("clean", f"{each:06d}.{kind}.npy"), mmap_mode="r")
        records = records[band] if kind == "bands" else records
        # Not by np.searchsorted, which reads all records where one field is looked for.
        places = range(len(records))
        low, high = (
            bisect.bisect_left(places, end, key=lambda place, its=records: int(its[place]["hash"]))
            for end in ends
        )
        yield np.array(records[low:high])


def _firsts(pairs: UInt64[np.ndarray, "n 2"]) -> UInt64[np.ndarray, "m 2"]:
    """The documents of each connected group but its first, each with that."""
    documents, places = np.unique(pairs, return_inverse=True)
    rows, columns = places.reshape(-1, 2).T
    graph = coo_array((np.ones(len(rows), bool), (rows, columns)), (len(documents),) * 2)
    _, groups = connected_components(graph, directed=False)
    _, begins = np.unique(groups, return_index=True)  # documents ascend: the first is the least
    first = documents[begins][groups]
    others = documents != first
    return np.stack([documents[others], first[others]], axis=1)


def _save(path: Path, array: np.ndarray) -> None:
    replace_file(path, lambda file: np.save(file, array, allow_pickle=False))
