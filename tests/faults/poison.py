"""Rows of a store whose gradient is NaN, wherever they are read."""

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from fugaku_jax.training import step


@contextlib.contextmanager
def poisoned(rows: np.ndarray) -> Iterator[None]:
    """Have the gradient of a device be NaN if it reads one of the rows, in what is compiled here.

    Args:
        rows: `[N, T+1]`, tokens.
    """
    gradient = step.accumulated_gradient

    def with_poison(layout: Any, batch: Any, *arguments: Any) -> Any:
        loss, losses, found = gradient(layout, batch, *arguments)
        is_bad = jnp.any(jnp.all(batch.batch.tokens[..., None, :] == jnp.asarray(rows), -1))
        return loss, losses, jax.tree.map(lambda x: jnp.where(is_bad, jnp.nan, x), found)

    with mock.patch.object(step, "accumulated_gradient", with_poison):
        yield
