"""The order of samples: a pure and invertible function of (store, seed, batch, row).

Sample `i` of a set covers its tokens `[i·T, i·T + T + 1)`: neighbours share one token, so that
every token but the first of a set is predicted once an epoch. Row `r` of batch `s` is the global
sample `g = s·B + r`; the mixture says which set it belongs to and that it is that set's `k`-th;
with `n` samples in the set, epoch `k // n` visits sample `permutation_epoch(k mod n)`. Step `s` of
a run reads batch `s`, unless the run has passed over some (`PassedOver`).
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64

from fugaku_jax.data.mixture import Mixture, Weight
from fugaku_jax.data.passed_over import PassedOver
from fugaku_jax.data.permutation import make_key, permute, unpermute
from fugaku_jax.data.store import Store
from fugaku_jax.errors import InputError


class SampleOrder:
    """Which tokens the rows of each step hold, and at which steps given tokens are seen."""

    def __init__(
        self,
        lengths: Sequence[int],
        weights: Sequence[Weight],
        sequence_length: int,
        batch_size: int,
        seed: int,
        names: Sequence[str] | None = None,
        passed_over: PassedOver | None = None,
    ) -> None:
        """The order over sets of tokens.

        Args:
            lengths: tokens of each set.
            weights: weight of each set in the mixture, any unit; 0 leaves a set out.
            sequence_length: T; a sample is T + 1 tokens.
            batch_size: B, the rows of a step over all processes.
            seed: any integer.
            names: what errors call the sets; their numbers if None.
            passed_over: batches that no step reads; none if None.

        Raises:
            InputError: a weight is wrong, or a set with a weight is shorter than a sample.
        """
        if sequence_length < 1:
            raise InputError(f"model.sequence_length: must be at least 1, got {sequence_length}.")
        if batch_size < 1:
            raise InputError(f"batch size: must be at least 1, got {batch_size}.")
        names = names or [str(index) for index in range(len(lengths))]
        if sequence_length + 1 > max(lengths, default=0):
            raise InputError(
                f"model.sequence_length: {sequence_length} is longer than the store's longest run "
                f"of {max(lengths, default=0)} tokens; "
                f"use at most {max(max(lengths, default=0) - 1, 0)}."
            )
        self.mixture = Mixture(weights)
        for name, length, part in zip(names, lengths, self.mixture.parts, strict=True):
            if part and length < sequence_length + 1:
                raise InputError(
                    f"set {name}: has {length} tokens, fewer than one sample of "
                    f"model.sequence_length + 1 = {sequence_length + 1}; "
                    "give it weight 0, more text or shorter sequences."
                )
        self.sequence_length = sequence_length
        self.batch_size = batch_size
        self.seed = seed
        self.passed_over = passed_over or PassedOver()
        self.samples = np.array(
            [max(length - 1, 0) // sequence_length for length in lengths], np.int64
        )

    @classmethod
    def of_store(
        cls,
        store: Store,
        sequence_length: int,
        batch_size: int,
        seed: int,
        passed_over: PassedOver | None = None,
    ) -> "SampleOrder":
        """The order over the training split of a store, by its weights. Raises as `__init__`."""
        return cls(
            lengths=[each.train.tokens for each in store.sets],
            weights=[each.weight for each in store.sets],
            sequence_length=sequence_length,
            batch_size=batch_size,
            seed=seed,
            names=[each.name for each in store.sets],
            passed_over=passed_over,
        )

    def locate(
        self, step: int
    ) -> tuple[Int64[np.ndarray, "B"], Int64[np.ndarray, "B"], Int64[np.ndarray, "B"]]:
        """What the rows of a step hold: the set, the first token and the epoch of each row."""
        return self.locate_batch(self.passed_over.batch(step))

    def locate_batch(
        self, batch: int
    ) -> tuple[Int64[np.ndarray, "B"], Int64[np.ndarray, "B"], Int64[np.ndarray, "B"]]:
        """What the rows of a batch hold, as `locate`, whether or not a step reads it."""
        places = batch * self.batch_size + np.arange(self.batch_size, dtype=np.int64)
        sets, counts = self.mixture.locate(places)
        epochs, samples = np.divmod(counts, np.maximum(self.samples[sets], 1))
        for index in np.unique(sets):
            mine = sets == index
            key = make_key(self.seed, int(index), epochs[mine])
            samples[mine] = permute(samples[mine], int(self.samples[index]), key)
        return sets, samples * self.sequence_length, epochs

    def batch_row(self, set_index: int, sample: int, epoch: int) -> tuple[int, int]:
        """The batch and the row in which a set's sample lies in an epoch: `locate_batch` inverted.

        Raises:
            InputError: there is no such sample, or the set has no weight.
        """
        size = int(self.samples[set_index])
        if not 0 <= sample < size:
            raise InputError(
                f"sample of set {set_index}: must be from 0 to {size - 1}, got {sample}."
            )
        key = make_key(self.seed, set_index, np.array([epoch], np.int64))
        position = int(unpermute(np.array([sample], np.int64), size, key)[0])
        return divmod(self.mixture.place(set_index, epoch * size + position), self.batch_size)

    def occurrences(
        self, set_index: int, start: int, stop: int, steps: int
    ) -> list[tuple[int, int, int]]:
        """All places before step `steps` at which tokens `[start, stop)` of a set are seen.

        Returns:
            (step, row, sample) of each, in the order of training. Empty when the set has no weight
            or the tokens lie in the rest that is too short for a sample.
        """
        if not self.mixture.parts[set_index] or stop <= start:
            return []
        T = self.sequence_length
        first, last = max(start - 1, 0) // T, (stop - 1) // T
        batches, found = self.passed_over.batch(steps), []
        for sample in range(first, min(last, int(self.samples[set_index]) - 1) + 1):
            epoch = 0
            while (place := self.batch_row(set_index, sample, epoch))[0] < batches:
                if (step := self.passed_over.step(place[0])) is not None:
                    found.append((step, place[1], sample))
                epoch += 1
        return sorted(found)
