"""Rows of a store whose gradient is NaN, wherever they are read."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import jax.numpy as jnp
import numpy as np

from fugaku_jax.training import overlapped_gradient, step


@contextlib.contextmanager
def poisoned(rows: np.ndarray) -> Iterator[None]:
    """Have the gradient of a device be NaN if it reads one of the rows, in what is compiled here.

    Args:
        rows: `[N, T+1]`, tokens.
    """

    def with_poison(gradient: Callable) -> Callable:
        def poisoned(*given: Any) -> Any:
            *before, batch, weights, fsdp, scale, frozen = given
            is_bad = jnp.any(jnp.all(batch.batch.tokens[..., None, :] == jnp.asarray(rows), -1))
            scale = jnp.where(is_bad, jnp.nan, scale)  # what the gradient is multiplied by
            return gradient(*before, batch, weights, fsdp, scale, frozen)

        return poisoned

    with contextlib.ExitStack() as stack:
        for module, name in (
            (step, "accumulated_gradient"),
            (overlapped_gradient, "overlapped_gradient"),
        ):
            wrapped = with_poison(getattr(module, name))
            stack.enter_context(mock.patch.object(module, name, wrapped))
        yield
