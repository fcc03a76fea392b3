"""What all processes of a job come to together, without a message between any two of them.

JAX's coordination service, which runs beside rank 0, keeps keys and values for all, and lets them
wait for each other. A process speaks to it and to nobody else, over the connection that it has
since the start; a collective of all would connect each with every other. What a process reads does
not grow with their number: rank 0 reads what all have said, decides, and the others read that. Keys
are removed as soon as nobody needs them, so that a long run leaves none.
"""

import functools
import json
from collections.abc import Callable
from typing import Any

import jax
from jax._src import distributed

from fugaku_jax.errors import InputError, RunError

Json = Any
"""What JSON can hold."""

A_WEEK = 7 * 24 * 3600 * 1000
"""Milliseconds. Who waits for a process that never comes is ended by the watchdog, not by this."""


def wait_for_all(point: str) -> None:
    """Wait until every process has come to this point of the program."""
    if jax.process_count() > 1:
        _service().meet(point)


def anywhere(wish: bool) -> bool:
    """Tell whether any process wishes it; all must ask, and wait for each other."""
    if jax.process_count() == 1:
        return wish
    service = _service()
    key = f"{service.round()}/wished"
    if wish:
        service.client.key_value_set(key, "1", allow_overwrite=True)
    service.meet("wished")
    return service.value(key) is not None


def decided(name: str, mine: Json, decide: Callable[[list[Json]], Json]) -> Json:
    """Let rank 0 decide about what all processes say; all must come, and hear its answer.

    Args:
        name: what is decided; the same everywhere.
        mine: what this process says, as JSON can hold it.
        decide: called on rank 0 alone with what all say, in the order of ranks.

    Returns:
        what `decide` returned, as JSON gives it back.

    Raises:
        RunError: on every process, if `decide` raises it; an InputError likewise.
    """
    if jax.process_count() == 1:
        return decide([mine])
    service = _service()
    here = service.round()
    service.client.key_value_set_bytes(
        f"{here}/said/{jax.process_index():09}", json.dumps(mine).encode()
    )
    service.meet(name)
    if jax.process_index() == 0:
        said = sorted(service.client.key_value_dir_get_bytes(f"{here}/said/"))
        try:
            answer = {"answer": decide([json.loads(value) for _, value in said])}
        except InputError as error:
            answer = {"refused": str(error)}
        except RunError as error:
            answer = {"failed": str(error)}
        service.client.key_value_set_bytes(f"{here}/answer", json.dumps(answer).encode())
    heard = json.loads(service.client.blocking_key_value_get_bytes(f"{here}/answer", A_WEEK))
    if "refused" in heard:
        raise InputError(heard["refused"])
    if "failed" in heard:
        raise RunError(heard["failed"])
    return heard["answer"]


class CommonStop:
    """The step after which all processes stop, once one of them wishes it.

    Nobody waits for anybody; a process asks the service once a step. The first to wish it writes
    down a step that lies `AHEAD` of the one it has completed. Nobody can have completed that by
    then: all take part in every step, and a process begins step n+1 only once it has asked after
    step n-1. So all find in time what is written, and stop after the same step.
    """

    AHEAD = 2

    def __init__(self) -> None:
        """Begin a session; all processes must, in the same order."""
        self._key = f"{_service().round(kept=True)}/stop" if jax.process_count() > 1 else ""

    def is_due(self, step: int, wish: bool) -> bool:
        """Tell whether all stop after this step, which is completed, or have.

        Args:
            step: the step; every process must ask after each.
            wish: whether this process wishes to stop.
        """
        if not self._key:
            return wish
        service = _service()
        found = service.value(self._key)
        if found is None and wish:
            found = service.first_value(self._key, str(step + self.AHEAD))
        return found is not None and step >= int(found)


class _Service:
    """The coordination service, as this process has it."""

    def __init__(self) -> None:
        self.client: Any = distributed.global_state.client
        self._rounds = 0
        self._spent: list[str] = []

    def round(self, kept: bool = False) -> str:
        """Return where the keys of the next round are; all processes count the same.

        Args:
            kept: whether they are to stay.
        """
        self._rounds += 1
        here = f"fugaku_jax/{self._rounds}"
        if not kept:
            self._spent.append(here)
        return here

    def meet(self, point: str) -> None:
        """Wait for all, and remove the keys of the rounds before: all have read them by now."""
        self.client.wait_at_barrier(f"fugaku_jax {point}", A_WEEK)
        spent, self._spent = self._spent[:-1], self._spent[-1:]
        if jax.process_index() == 0:
            for here in spent:
                self.client.key_value_delete(f"{here}/")

    def value(self, key: str) -> str | None:
        """Return what is written under a key, without waiting for it."""
        try:
            return self.client.key_value_try_get(key)
        except jax.errors.JaxRuntimeError as error:
            if "NOT_FOUND" not in str(error):
                raise
            return None

    def first_value(self, key: str, value: str) -> str:
        """Write a value unless there is one; return the one that is there then."""
        try:
            self.client.key_value_set(key, value)
        except jax.errors.JaxRuntimeError as error:
            if "ALREADY_EXISTS" not in str(error):
                raise
        return self.client.blocking_key_value_get(key, A_WEEK)


@functools.cache
def _service() -> _Service:
    return _Service()
