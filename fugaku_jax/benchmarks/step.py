"""Speed and memory of a training step beside the same model in PyTorch, one machine, one run.

As a program, this module is one contender's process: `python -m fugaku_jax.benchmarks.step
JAX_OR_TORCH... '{...}'`.
"""

import tempfile
from collections.abc import Callable, Sequence
from typing import Any

from fugaku_jax.benchmarks.contenders import (
    ADAMW,
    NO_DROPOUT,
    Measured,
    StepShape,
    alternate,
    describe,
    print_steps,
    run_contender,
    sum_up,
)
from fugaku_jax.benchmarks.processes import require
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
    each = [(name, allocator) for allocator in ALLOCATORS for name in contenders]
    with tempfile.TemporaryDirectory() as cache:
        # The caches spare later rounds the compilation, which is not timed.
        caches = {
            "JAX_COMPILATION_CACHE_DIR": f"{cache}/jax",
            "TORCHINDUCTOR_CACHE_DIR": f"{cache}/torch",
        }

        def measure(contender: tuple[str, str]) -> Measured:
            name, allocator = contender
            # As `launch/train.py` starts itself.
            ours = huge_page_variables() if name.startswith("jax") else {}
            variables = ours | ALLOCATORS[allocator] | caches
            measured = run_contender(__name__, name, shape, steps, warmup, variables)
            say(f"{name}, {allocator} allocator: {describe(shape, measured)}")
            return measured

        measured = alternate(rounds, each, measure)
    rows = [
        {"contender": name, "allocator": allocator, **sum_up(shape, processes)}
        for (name, allocator), processes in measured.items()
    ]
    same = {"variables": ALLOCATORS["same"], **_ratios(rows, "same")}
    return {"contenders": rows, **_ratios(rows, "own"), "same_allocator": same}


def _ratios(rows: list[dict[str, Any]], allocator: str) -> dict[str, float]:
    by_name = {row["contender"]: row for row in rows if row["allocator"] == allocator}
    ratios = {}
    for ratio, (figure, ours, theirs) in RATIOS.items():
        if {ours, *theirs} <= by_name.keys():
            best = max((by_name[name] for name in theirs), key=lambda r: r["tokens_per_second"])
            ratios[ratio] = by_name[ours][figure] / best[figure]
    return ratios


def _jax_step(shape: StepShape, precision: Any) -> Callable[[], float]:
    """Return a function that takes a step and returns its loss."""
    import jax

    from fugaku_jax.config import Config, OptimizerConfig, TrainingConfig
    from fugaku_jax.data.batch import Batch
    from fugaku_jax.models.layout import make_layout
    from fugaku_jax.training.state import init_state
    from fugaku_jax.training.step import make_train_step

    config = Config(
        model=shape.model(),
        optimizer=OptimizerConfig(learning_rate=1e-4),
        training=TrainingConfig(steps=1000, batch_size=shape.batch_size, precision=precision),
    )
    layout = make_layout(config)
    batch = jax.device_put(Batch(shape.draw()[None]), layout.rows)
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
            use_cache=False,
            **NO_DROPOUT,
        )
    )
    optimizer = torch.optim.AdamW(model.parameters(), **ADAMW)
    tokens = torch.from_numpy(shape.draw()).long()
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


def _make(name: str, shape: StepShape) -> tuple[Callable[[], float], Callable[[], Measured]]:
    """Return a contender's step; there is nothing else to say of it."""
    framework, *_, precision = name.split("_")
    if framework == "jax":
        return _jax_step(shape, precision), dict
    return _torch_step(shape, precision, compiled="compile" in name), dict


if __name__ == "__main__":
    print_steps(_make)
