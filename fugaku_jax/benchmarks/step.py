"""Speed and memory of a training step beside the same model in PyTorch, one machine, one run.

Each contender runs in a process of its own, one process at a time. A round runs every contender
once; the next round starts with another, so that a machine that slows down or is disturbed does
so for all. Compilation and the first steps are not timed.

As a program, this module is one contender's process: `python -m fugaku_jax.benchmarks.step
JAX_OR_TORCH... '{...}'`.
"""

import dataclasses
import json
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fugaku_jax.benchmarks.processes import require, run_module, token_speeds
from fugaku_jax.huge_pages import huge_page_variables

CONTENDERS = (
    "jax_fp32",
    "jax_bf16",
    "torch_fp32",
    "torch_bf16",
    "torch_compile_fp32",
    "torch_compile_bf16",
)
"""Ours; `transformers.GPT2LMHeadModel` eager and under `torch.compile`; bf16 there is autocast."""
ALLOCATORS = {
    "own": {},
    # glibc's, with huge pages. Where a contender brings another, this does not change that.
    "same": {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"},
}
"""Variables of a contender's process: as a user would start it, and one allocator for all."""
RATIOS = {
    "ratio_to_torch_compile_bf16": ("tokens_per_second", "jax_bf16", ["torch_compile_bf16"]),
    "ratio_to_torch_fp32": ("tokens_per_second", "jax_fp32", ["torch_fp32", "torch_compile_fp32"]),
    "memory_ratio": ("peak_memory_bytes", "jax_bf16", ["torch_compile_bf16"]),
}
"""What is compared of ours with PyTorch's: the fastest of those named."""


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


def run(
    rounds: int = 3,
    steps: int = 3,
    contenders: Sequence[str] = CONTENDERS,
    shape: StepShape | None = None,
    warmup: int = 2,
    say: Callable[[str], object] = lambda _: None,
) -> dict[str, Any]:
    """Measure the contenders, each with its own allocator and once more all with the same.

    Args:
        rounds: processes that each contender gets.
        steps: timed steps of each process.
        contenders: some of `CONTENDERS`.
        shape: the model and batch; the one of `StepShape()` if not given.
        warmup: steps of each process before the timed ones, the first of which compiles.
        say: is told what was measured as it goes.

    Returns:
        `RATIOS` by name, if their contenders took part (of speed, above 1 is faster; of memory,
        below 1 is smaller); `same_allocator`, these once more with one allocator for all, and its
        `variables`; and `contenders`, a row for each and each of `ALLOCATORS`: `contender`;
        `allocator`; `tokens_per_second` (of the median step), `tokens_per_second_min` and `_max`
        (of the slowest and fastest step); `peak_memory_bytes` (largest resident size of a process,
        compilation included); `loss` of the last step; `timed_steps`.

    Raises:
        InputError: PyTorch or transformers is not installed.
        RunError: a contender's process failed.
    """
    if any(name.startswith("torch") for name in contenders):
        require("torch", "transformers")
    shape = shape or StepShape()
    order = [(name, allocator) for allocator in ALLOCATORS for name in contenders]
    measured: dict[tuple[str, str], list[dict[str, Any]]] = {key: [] for key in order}
    with tempfile.TemporaryDirectory() as cache:
        for _ in range(rounds):
            for name, allocator in order:
                result = _run_process(name, allocator, shape, steps, warmup, cache)
                measured[name, allocator].append(result)
                speed = shape.tokens / statistics.median(result["seconds"])
                memory = result["peak_memory_bytes"] / 1e9
                say(f"{name}, {allocator} allocator: {speed:.0f} tokens/s, {memory:.2f} GB")
            order = order[1:] + order[:1]
    rows = [_row(*key, shape, processes) for key, processes in measured.items()]
    same = {"variables": ALLOCATORS["same"], **_ratios(rows, "same")}
    return {"contenders": rows, **_ratios(rows, "own"), "same_allocator": same}


def _run_process(
    name: str, allocator: str, shape: StepShape, steps: int, warmup: int, cache: str
) -> dict[str, Any]:
    arguments = {"shape": dataclasses.asdict(shape), "steps": steps, "warmup": warmup}
    # The caches spare later rounds the compilation, which is not timed.
    caches = {
        "JAX_COMPILATION_CACHE_DIR": f"{cache}/jax",
        "TORCHINDUCTOR_CACHE_DIR": f"{cache}/torch",
    }
    # As `launch/train.py` starts itself.
    ours = huge_page_variables() if name.startswith("jax") else {}
    return run_module(
        f"The contender {name}",
        *(__name__, name, json.dumps(arguments)),
        variables=ours | ALLOCATORS[allocator] | caches,
    )[-1]


def _row(
    name: str, allocator: str, shape: StepShape, processes: list[dict[str, Any]]
) -> dict[str, Any]:
    seconds = [s for process in processes for s in process["seconds"]]
    return {
        "contender": name,
        "allocator": allocator,
        **token_speeds(shape.tokens, seconds),
        "peak_memory_bytes": max(process["peak_memory_bytes"] for process in processes),
        "loss": processes[-1]["loss"],
        "timed_steps": len(seconds),
    }


def _ratios(rows: list[dict[str, Any]], allocator: str) -> dict[str, float]:
    by_name = {row["contender"]: row for row in rows if row["allocator"] == allocator}
    ratios = {}
    for ratio, (figure, ours, theirs) in RATIOS.items():
        if {ours, *theirs} <= by_name.keys():
            best = max((by_name[name] for name in theirs), key=lambda r: r["tokens_per_second"])
            ratios[ratio] = by_name[ours][figure] / best[figure]
    return ratios


def _random_tokens(shape: StepShape) -> Any:
    import numpy as np

    size = (shape.batch_size, shape.sequence_length + 1)
    return np.random.default_rng(0).integers(0, shape.vocab_size, size, np.int32)


def _jax_step(shape: StepShape, precision: Any) -> Callable[[], float]:
    """Return a function that takes a step and returns its loss."""
    import jax

    from fugaku_jax.config import Config, ModelConfig, OptimizerConfig, TrainingConfig
    from fugaku_jax.data.batch import Batch
    from fugaku_jax.models.layout import make_layout
    from fugaku_jax.training.state import init_state
    from fugaku_jax.training.step import make_train_step

    config = Config(
        model=ModelConfig(
            vocab_size=shape.vocab_size,
            n_layers=shape.n_layers,
            d_model=shape.d_model,
            n_heads=shape.n_heads,
            sequence_length=shape.sequence_length,
        ),
        optimizer=OptimizerConfig(learning_rate=1e-4),
        training=TrainingConfig(steps=1000, batch_size=shape.batch_size, precision=precision),
    )
    layout = make_layout(config)
    batch = jax.device_put(Batch(_random_tokens(shape)[None]), layout.rows)
    state = init_state(layout)
    train_step = make_train_step(layout)

    def step() -> float:
        nonlocal state
        state, metrics = train_step(state, batch)
        jax.block_until_ready(state)
        return float(metrics["loss"])

    return step


def _torch_step(shape: StepShape, precision: str, compiled: bool) -> Callable[[], float]:
    """Return a function that takes a step and returns its loss."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=shape.vocab_size,
            n_positions=shape.sequence_length,
            n_embd=shape.d_model,
            n_layer=shape.n_layers,
            n_head=shape.n_heads,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            use_cache=False,
        )
    )
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True
    )
    tokens = torch.from_numpy(_random_tokens(shape)).long()
    inputs, targets = tokens[:, :-1].contiguous(), tokens[:, 1:].flatten()

    def loss_of(inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            logits = model(input_ids=inputs).logits
            return torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets)

    forward = torch.compile(loss_of) if compiled else loss_of

    def step() -> float:
        loss = forward(inputs, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return step


def main() -> None:
    """Run as one contender: print the seconds of its steps and its peak memory as JSON."""
    name, arguments = sys.argv[1], json.loads(sys.argv[2])
    shape = StepShape(**arguments["shape"])
    framework, *_, precision = name.split("_")
    if framework == "jax":
        step = _jax_step(shape, precision)
    else:
        step = _torch_step(shape, precision, compiled="compile" in name)
    loss = 0.0
    seconds = []
    for _ in range(arguments["warmup"] + arguments["steps"]):
        start = time.perf_counter()
        loss = step()
        seconds.append(time.perf_counter() - start)
    # In KiB on Linux. A process inherits the mark of the one that started it, which is small.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    result = {"seconds": seconds[arguments["warmup"] :], "peak_memory_bytes": peak, "loss": loss}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
