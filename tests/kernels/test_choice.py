"""Which implementation of a kernel runs is told by a context that JAX's caches know of."""

from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import pytest

from fugaku_jax.errors import InputError
from fugaku_jax.kernels import native
from fugaku_jax.kernels.activation import gelu


def is_native(choice: str) -> bool:
    """Tell whether a function that is jitted once runs natively where it is asked for a choice."""
    with native.use(choice):
        return "fugaku_gelu" in PROGRAM.lower(jnp.ones((4, 8))).as_text()


PROGRAM = jax.jit(gelu)


def test_one_jitted_function_runs_by_either_in_turn_and_nothing_is_cleared():
    assert [is_native(each) for each in ("native", "reference") * 2] == [True, False] * 2


def test_a_choice_is_that_of_its_thread():
    with native.use("reference"), ThreadPoolExecutor(1) as other:
        assert other.submit(is_native, "native").result()
        assert not native.enabled()


def test_another_choice_is_refused():
    with native.use("fast"), pytest.raises(InputError, match="'fast', but it must be one of auto,"):
        native.enabled()
