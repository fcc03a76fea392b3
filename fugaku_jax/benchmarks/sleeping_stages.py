"""Stages of a pipeline that do not compute but sleep."""

import functools
import time
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from fugaku_jax.pipeline.duration import COSTS
from fugaku_jax.pipeline.schedule import Op
from fugaku_jax.pipeline.stage_program import StageProgram


@dataclass
class SleepingStages(StageProgram):
    """Stages that sleep as long as real ones would work; nothing is kept of a layer.

    An activation is a single number, `[1, 1, 1]`.
    """

    forward_seconds: float
    slept: float = 0.0
    """How long they really slept."""
    awake: bool = False
    """Whether not to sleep: so that a pass only compiles and connects."""

    def inputs(self, m: Any) -> None:
        """Return nothing."""

    def embed(self, shared: Any, m: Any) -> Any:
        """Return the number of the micro-batch."""
        return jnp.full((1, 1, 1), shared + m)

    def loss(self, shared: Any, y: Any, m: Any) -> tuple[Any, None]:  # noqa: ARG002
        """Return the activation."""
        return shared + y.sum(), None

    def zero_gradients(self, weights: Any) -> Any:
        """Return zeros."""
        return jnp.zeros_like(weights)

    def residual_types(self, *_: Any, **__: Any) -> list:
        """Return none."""
        return []

    def deferred_types(self, *_: Any, **__: Any) -> list:
        """Return none."""
        return []

    def forward(self, *given: Any, **_: Any) -> Any:
        """Sleep."""
        x, buffers = given[2], given[4]
        return self._work(Op.FORWARD, x), buffers

    def backward(self, *given: Any, **_: Any) -> Any:
        """Sleep."""
        dy, total = given[-2:]
        return self._work(Op.BACKWARD, dy), total

    def backward_input(self, *given: Any, **_: Any) -> Any:
        """Sleep."""
        dy, deferred, _ = given[-3:]
        return self._work(Op.BACKWARD_INPUT, dy), deferred

    def backward_weight(self, *given: Any, **_: Any) -> Any:
        """Sleep."""
        return self._work(Op.BACKWARD_WEIGHT, given[-1])

    def _work(self, op: Op, x: Any) -> Any:
        """Return what is given, after the time of a kind of work; nobody can have it sooner."""
        sleep = functools.partial(self._sleep, COSTS[op] * self.forward_seconds)
        return jax.pure_callback(sleep, jax.ShapeDtypeStruct(x.shape, x.dtype), x)

    def _sleep(self, seconds: float, x: Any) -> Any:
        start = time.perf_counter()
        if not self.awake:
            time.sleep(seconds)
        self.slept += time.perf_counter() - start
        return x
