"""The loss of each document when a run saw it, in the run directory: `document_losses/RANK.bin`.

Each process appends what its devices computed, one record of 20 bytes for each span between
end-of-document tokens in a row. Whose text it is is asked when it is read, of the run's order.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, Shaped

DOCUMENT_LOSSES = "document_losses"
RECORD = np.dtype([(n, "<u4") for n in ("step", "row", "first", "last")] + [("loss", "<f4")])
"""Step, counted from 1; row of its batch; first and last column; mean loss of these tokens."""


def spans_of_documents(
    step: int,
    rows: Int[np.ndarray, "R"],
    column: int,
    tokens: Int[np.ndarray, "R T"],
    losses: Float[np.ndarray, "R T"],
    end_of_document: int,
) -> Shaped[np.ndarray, "N"]:
    """Return the records of the spans of some rows.

    Args:
        step: counted from 1.
        rows: their numbers in the batch.
        column: that of the first token.
        tokens: that were to be predicted; an end-of-document token is the last of its span.
        losses: of each, in nats.
        end_of_document: that token.
    """
    begins = np.ones(tokens.shape, bool)
    begins[:, 1:] = tokens[:, :-1] == end_of_document
    starts = np.flatnonzero(begins)
    lengths = np.diff(starts, append=tokens.size)
    row, first = np.divmod(starts, tokens.shape[1])
    found = np.empty(len(starts), RECORD)
    found["step"], found["row"] = step, rows[row]
    found["first"], found["last"] = column + first, column + first + lengths - 1
    found["loss"] = np.add.reduceat(losses.ravel().astype(np.float64), starts) / lengths
    return found


def drop_losses_after(run_dir: Path, step: int) -> None:
    """Drop the records of later steps, which are taken again, and what a kill left unfinished."""
    for path in _files(run_dir):
        kept = int(np.searchsorted(_read(path)["step"], step, side="right"))
        os.truncate(path, kept * RECORD.itemsize)


def read_document_losses(run_dir: Path) -> Shaped[np.ndarray, "N"] | None:
    """Return the records of a run by step, row and column; None if it keeps none."""
    files = list(_files(run_dir))
    if not files:
        return None
    found = np.concatenate([_read(path) for path in files])
    return found[np.lexsort([found[name] for name in ("first", "row", "step")])]


def losses_file(run_dir: Path, rank: int) -> Path:
    """Return where a process of a run keeps its records."""
    return run_dir / DOCUMENT_LOSSES / f"{rank}.bin"


def _files(run_dir: Path) -> Iterator[Path]:
    return (run_dir / DOCUMENT_LOSSES).glob("*.bin")


def _read(path: Path) -> Shaped[np.ndarray, "N"]:
    return np.fromfile(path, RECORD, path.stat().st_size // RECORD.itemsize)
