"""The loss of each document whenever the run sees it, kept for `launch/trace.py RUN loss`."""

from pathlib import Path

import jax
import numpy as np

from fugaku_jax.run.document_losses import losses_file, spans_of_documents
from fugaku_jax.training.hooks.hook import CompletedStep, Hook


class DocumentLosses(Hook):
    """Appends to a file of this process what its own devices know; nothing goes over the network.

    Those of later steps were dropped before this session's first (`drop_losses_after`).

    Args:
        run_dir: the run.
        end_of_document: the token that documents end with.
    """

    needs_losses = True

    def __init__(self, run_dir: Path, end_of_document: int) -> None:
        self._path, self._end = losses_file(run_dir, jax.process_index()), end_of_document

    def after_step(self, done: CompletedStep) -> None:
        """Write, in one piece. The file of a process that has no losses stays absent."""
        losses, tokens = done.outputs["losses"], done.batch.tokens
        rows = np.arange(losses.shape[0] * losses.shape[1]).reshape(losses.shape[:2])
        there = {each.device: each for each in tokens.addressable_shards}
        found = []
        for each in losses.addressable_shards:
            if each.replica_id == 0:
                mine, (_, _, columns) = there[each.device], each.index
                first = columns.start or 0
                part = np.asarray(each.data)
                targets = np.asarray(mine.data)[..., first + 1 : first + 1 + part.shape[-1]]
                numbers = rows[each.index[:2]].ravel()
                targets, part = (x.reshape(len(numbers), -1) for x in (targets, part))
                found.append(
                    spans_of_documents(done.number, numbers, first + 1, targets, part, self._end)
                )
        if found:
            self._path.parent.mkdir(exist_ok=True)
            with self._path.open("ab", buffering=0) as file:
                file.write(np.concatenate(found).tobytes())
