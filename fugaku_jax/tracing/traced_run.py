"""A run as those see it who ask what it learned from: its store, its order, its documents."""

import copy
import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from fugaku_jax.data.passed_over import PassedOver
from fugaku_jax.errors import InputError
from fugaku_jax.run.checkpoint_folder import saved_steps
from fugaku_jax.run.data_order import open_run_order
from fugaku_jax.run.metrics import METRICS_FILE, read_metrics

_TEXTS = 64
"""Most documents whose text is kept: neighbours in a batch are often of one."""


class TracedRun:
    """What answers are taken from; nothing of it is asked again of whoever asks.

    Args:
        run_dir: the run.
        place: folder or URL of its store, if that is no longer where the run found it.

    Raises:
        InputError: as `open_run_order`.
    """

    def __init__(self, run_dir: Path, place: str | None = None) -> None:
        self.run_dir = run_dir
        self.store, self.order, self.steps = open_run_order(run_dir, place)
        self.tokenizer = self.store.tokenizer()
        self.documents = functools.cache(self.store.documents)
        self.text = functools.lru_cache(_TEXTS)(self._text)

    def passing(self, batches: Iterable[range]) -> "TracedRun":
        """Return what this run would be if it passed over some more batches."""
        run = copy.copy(self)
        run.order = copy.copy(self.order)
        run.order.passed_over = PassedOver([*self.order.passed_over.ranges, *batches])
        return run

    def check_step(self, step: int) -> None:
        """Raise InputError unless the run takes such a step, counted from 1."""
        if not 1 <= step <= self.steps:
            raise InputError(f"step {step}: the run has the steps 1 to {self.steps}.")

    def steps_taken(self) -> int:
        """Return how many steps the run has taken so far."""
        figures = read_metrics(self.run_dir)[-1:] if (self.run_dir / METRICS_FILE).exists() else []
        return max([0, *saved_steps(self.run_dir), *(int(each["step"]) for each in figures)])

    def documents_in(self, set_index: int, first: int, last: int) -> list[dict[str, Any]]:
        """Return the rows of the table of documents with training tokens in `[first, last]`."""
        return self.documents(set_index, "train").spanning(first, last).to_pylist()

    def _text(
        self, set_index: int, start: int, length: int
    ) -> tuple[bytes, Int64[np.ndarray, "T"]]:
        """Return the text of some training tokens as UTF-8, and where in it each of them ends."""
        tokens = self.store.read(set_index, "train", np.array([start]), length)[0]
        return self.tokenizer.decode_each(tokens)
