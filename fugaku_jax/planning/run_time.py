"""How long a whole run takes, modelled: its steps, and the checkpoints and validations between."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from fugaku_jax.config import Config
from fugaku_jax.errors import InputError
from fugaku_jax.tofu.machine import Machine

BYTES_SAVED = 12
"""Of a parameter in a checkpoint: the weight and two moments, fp32."""
FORWARD_SHARE = 1 / 3
"""Of a step's arithmetic that a validation's batch needs."""


@dataclass(frozen=True)
class RunTime:
    """A modelled run."""

    tokens: float
    """That it learns from."""
    steps: int
    """That these take."""
    beside_steps: Mapping[str, float] = field(hash=False)
    """Seconds of all `checkpoints` and `validations`."""
    seconds: float
    """All of it."""
    node_hours: float
    """That on all nodes."""


def run_time(
    config: Config, tokens: float | None = None
) -> Callable[[float, int, int, Machine], RunTime]:
    """Return a function of a step's seconds, the nodes, the parameters and the machine.

    Args:
        config: the run.
        tokens: that it is to learn from; those of its steps if not given.

    Raises:
        InputError: there are none.
    """
    tokens = config.total_tokens if tokens is None else tokens
    if not (math.isfinite(tokens) and tokens >= config.tokens_per_step):
        raise InputError(
            f"--tokens is {tokens:g}, but a run takes at least one step, which is "
            f"{config.tokens_per_step:,} tokens."
        )

    def of(step: float, nodes: int, parameters: int, machine: Machine) -> RunTime:
        steps = math.ceil(tokens / config.tokens_per_step)
        storage, training = machine.storage, config.training
        writing = min(nodes * storage.node_bytes_per_second, storage.total_bytes_per_second)
        saves = math.ceil(steps / config.checkpoint.every) if config.checkpoint.every else 1
        validations = steps // training.validate_every if training.validate_every else 1
        batches = math.ceil(training.validation_tokens / config.tokens_per_step)
        beside = {
            "checkpoints": saves * BYTES_SAVED * parameters / writing,
            "validations": validations * batches * step * FORWARD_SHARE,
        }
        seconds = steps * step + sum(beside.values())
        return RunTime(tokens, steps, beside, seconds, seconds * nodes / 3600)

    return of
