"""How well a model predicted each document when it saw it, and what it forgot since.

A document is read in parts, those of it that lie in one row; in every epoch they are the same. So
the losses of a part may be compared with each other, and those of two parts may not.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Shaped

from fugaku_jax.errors import InputError
from fugaku_jax.run.document_losses import read_document_losses
from fugaku_jax.tracing.rows import stated
from fugaku_jax.tracing.traced_run import TracedRun


@dataclass(frozen=True)
class SeenLoss:
    """The loss of a part of a document in a step, before that step learned from it."""

    step: int
    row: int
    first_column: int
    last_column: int
    loss: float
    """Mean of the columns from `first_column` on, or from 1: column 0 is not predicted; in nats."""

    @property
    def tokens(self) -> int:
        """How many tokens that is the mean of."""
        return self.last_column - max(self.first_column, 1) + 1


@dataclass(frozen=True)
class LossesOfDocument:
    """A document, and its losses from the first time it was seen."""

    document: str
    set: str
    source: str
    licence: str | None
    tokens: int
    """Of all its parts that were seen."""
    last_loss: float
    """Of all its parts that were seen, each when it was seen last; mean of their tokens."""
    rise: float | None
    """The most that the loss of a part rose from one time to a later one, in nats; below 0 if it
    only fell; None if no part was seen twice."""
    rise_steps: tuple[int, ...]
    """Those two steps."""
    seen: tuple[SeenLoss, ...]

    def __str__(self) -> str:
        rise = ""
        if self.rise is not None:
            rise = ", rise {:+.3f} from step {} to {}".format(self.rise, *self.rise_steps)
        head = f"{self.document}, {self.source}, {stated(self.licence)}"
        losses = ", ".join(f"step {each.step} {each.loss:.3f}" for each in self.seen)
        return f"{head}: last loss {self.last_loss:.3f}{rise}\n  {losses}"


@dataclass(frozen=True)
class TracedLosses:
    """The documents that stand out."""

    worst: tuple[LossesOfDocument, ...]
    """Highest last loss first."""
    forgotten: tuple[LossesOfDocument, ...]
    """Largest rise first; those alone whose loss rose."""

    def __str__(self) -> str:
        forgotten = self.forgotten or ("no loss rose from one time to a later one",)
        return "\n".join(["worst:", *map(str, self.worst), "most forgotten:", *map(str, forgotten)])


def traced_losses(run: TracedRun, most: int = 10, shortest: int = 16) -> TracedLosses:
    """Tell which documents a run predicted worst, and which it forgot most.

    Args:
        run: which kept the losses.
        most: documents of either kind.
        shortest: fewest tokens of a document that were seen, as the loss of a few says little.

    Raises:
        InputError: it kept none.
    """
    found = [each for each in losses_of_documents(run) if each.tokens >= shortest]
    worst = sorted(found, key=lambda each: -each.last_loss)
    rising = [each for each in found if each.rise is not None and each.rise > 0]
    rising.sort(key=lambda each: -(each.rise or 0))
    return TracedLosses(tuple(worst[:most]), tuple(rising[:most]))


def losses_of_documents(run: TracedRun) -> Iterator[LossesOfDocument]:
    """Yield the losses of each document that was seen while they were kept.

    Raises:
        InputError: none were kept.
    """
    records = read_document_losses(run.run_dir)
    if records is None:
        raise InputError(
            f"{run.run_dir} keeps no losses of documents; train it with --training.document-losses."
        )
    T, documents_in = run.order.sequence_length, functools.cache(run.documents_in)
    parts: dict[tuple[int, str], dict[int, list[SeenLoss]]] = {}
    about = {}
    for step, of_step in _by_step(records, T * run.order.batch_size):
        sets, starts, _ = (each.tolist() for each in run.order.locate(step - 1))
        for row in range(run.order.batch_size):
            sums = _summed(of_step[of_step["row"] == row], T)
            start = starts[row]
            for each in documents_in(sets[row], start, start + T):
                first = max(each["start"] - start, 0)
                last = min(each["start"] + each["length"] - 1 - start, T)
                one = max(first, 1)
                if last >= one:
                    loss = float(sums[last] - sums[one - 1]) / (last - one + 1)
                    key = sets[row], each["id"]
                    seen = SeenLoss(step, row, first, last, loss)
                    parts.setdefault(key, {}).setdefault(start, []).append(seen)
                    about[key] = each["source"], each["licence"]
    for (index, document), of_parts in parts.items():
        yield _told(document, run.store.sets[index].name, *about[index, document], of_parts)


def _by_step(
    records: Shaped[np.ndarray, "N"], tokens: int
) -> Iterator[tuple[int, Shaped[np.ndarray, "M"]]]:
    """Yield the records of each step of which none is missing, if all are finite."""
    begins = np.flatnonzero(np.diff(records["step"]))
    for of_step in np.split(records, begins + 1) if len(records) else ():
        lengths = of_step["last"].astype(np.int64) - of_step["first"] + 1
        is_finite = np.isfinite(of_step["loss"]).all()
        if is_finite and lengths.sum() == tokens:  # else a process was killed
            yield int(of_step["step"][0]), of_step


def _summed(records: Shaped[np.ndarray, "N"], length: int) -> Shaped[np.ndarray, "T_plus_1"]:
    """Return the sum of losses up to each column of a row, right at the ends of spans."""
    lengths = records["last"].astype(np.int64) - records["first"] + 1
    each = np.repeat(records["loss"].astype(np.float64), lengths)
    return np.concatenate([[0.0], np.cumsum(each)])[: length + 1]


def _told(
    document: str,
    set_name: str,
    source: str,
    licence: str | None,
    parts: dict[int, list[SeenLoss]],
) -> LossesOfDocument:
    last = [each[-1] for each in parts.values()]
    tokens = sum(x.tokens for x in last)
    mean = sum(x.loss * x.tokens for x in last) / tokens
    rises = [
        (later.loss - before.loss, before.step, later.step)
        for each in parts.values()
        for i, later in enumerate(each)
        for before in each[:i]
    ]
    rise, *steps = max(rises, default=(None,))
    seen = sorted((x for each in parts.values() for x in each), key=lambda x: (x.step, x.row))
    said = document, set_name, source, licence, tokens, mean
    return LossesOfDocument(*said, rise, tuple(steps), tuple(seen))
