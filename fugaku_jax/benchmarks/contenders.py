"""Training steps that are compared: their shape, whose turn it is, what each process prints.

A round runs every contender once, each in a process of its own; the next round begins with another,
so that a machine that slows down or is disturbed does so for all. Compilation and the first steps
are not timed.
"""

import dataclasses
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from fugaku_jax.benchmarks.processes import run_module, token_speeds

if TYPE_CHECKING:
    from fugaku_jax.config import ModelConfig

Contender = TypeVar("Contender", bound=Hashable)
Measured = dict[str, Any]
"""What a process prints: `seconds` of each timed step, `peak_memory_bytes` (largest resident size,
compilation included), `loss` of the last step, and what else it has to say."""
NO_DROPOUT = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
"""For `transformers.GPT2Config`."""
ADAMW = {"lr": 1e-4, "betas": (0.9, 0.95), "weight_decay": 0.1, "fused": True}
"""For `torch.optim.AdamW`, as ours is by default."""


@dataclass(frozen=True)
class StepShape:
    """The step: AdamW, gradients clipped to a global norm of 1, no dropout."""

    n_layers: int = 6
    d_model: int = 768
    n_heads: int = 12
    sequence_length: int = 512
    batch_size: int = 4
    vocab_size: int = 50_304

    @property
    def tokens(self) -> int:
        """Tokens a step."""
        return self.batch_size * self.sequence_length

    def model(self) -> "ModelConfig":
        """Return the model."""
        from fugaku_jax.config import ModelConfig

        fields = dataclasses.asdict(self)
        del fields["batch_size"]
        return ModelConfig(**fields)

    def draw(self) -> Any:
        """Draw tokens, `[B, T + 1]`, always the same."""
        import numpy as np

        size = (self.batch_size, self.sequence_length + 1)
        return np.random.default_rng(0).integers(0, self.vocab_size, size, np.int32)


def alternate(
    rounds: int, contenders: Sequence[Contender], measure: Callable[[Contender], Measured]
) -> dict[Contender, list[Measured]]:
    """Measure each contender once a round, and begin each round with another."""
    order = list(contenders)
    measured: dict[Contender, list[Measured]] = {name: [] for name in order}
    for _ in range(rounds):
        for name in order:
            measured[name].append(measure(name))
        order = order[1:] + order[:1]
    return measured


def run_contender(
    module: str,
    name: str,
    shape: StepShape,
    steps: int,
    warmup: int,
    variables: dict[str, str],
) -> Measured:
    """Run one contender's process.

    Args:
        module: whose `main` calls `print_steps`.
        name: of the contender.
        shape: of its step.
        steps: that are timed.
        warmup: steps before these, the first of which compiles.
        variables: environment variables besides those of this process.

    Raises:
        RunError: it failed.
    """
    arguments = json.dumps({"shape": dataclasses.asdict(shape), "steps": steps, "warmup": warmup})
    who = f"The contender {name}"
    return run_module(who, module, name, arguments, variables=variables)[-1]


def print_steps(
    make: Callable[[str, StepShape], tuple[Callable[[], float], Callable[[], Measured]]],
) -> None:
    """Be one contender's process: take its steps, and print what `run_contender` returns.

    Args:
        make: from the contender's name and the shape, a function that takes a step and returns its
            loss, and one that tells what else there is to say when all are taken.
    """
    name, arguments = sys.argv[1], json.loads(sys.argv[2])
    step, tell = make(name, StepShape(**arguments["shape"]))
    seconds, loss = [], 0.0
    for _ in range(arguments["warmup"] + arguments["steps"]):
        start = time.perf_counter()
        loss = step()
        seconds.append(time.perf_counter() - start)
    # In KiB on Linux. A process inherits the mark of the one that started it, which is small.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    result = {"seconds": seconds[arguments["warmup"] :], "peak_memory_bytes": peak, "loss": loss}
    print(json.dumps(result | tell()))


def sum_up(shape: StepShape, processes: Sequence[Measured]) -> dict[str, Any]:
    """Return the figures of a contender from what its processes printed."""
    seconds = [s for process in processes for s in process["seconds"]]
    return {
        **token_speeds(shape.tokens, seconds),
        "peak_memory_bytes": max(process["peak_memory_bytes"] for process in processes),
        "loss": processes[-1]["loss"],
        "timed_steps": len(seconds),
    }


def describe(shape: StepShape, measured: Measured) -> str:
    """Say what a process measured."""
    speed = shape.tokens / statistics.median(measured["seconds"])
    return f"{speed:.0f} tokens/s, {measured['peak_memory_bytes'] / 1e9:.2f} GB"
