"""Speed and memory of a tuning step beside `trl` and `peft` on the same model, in one run.

Rows are full, and three fifths of their tokens
are answers, as in the instructions that Fugaku-LLM was tuned on.

As a program, this module is one contender's process: `python -m fugaku_jax.benchmarks.tuning
OURS_OR_TRL... '{...}'`.
"""

import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

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

METHODS, PRECISIONS = ("full", "lora"), ("bf16", "fp32")
CONTENDERS = tuple(
    f"{who}_{method}_{precision}"
    for method in METHODS
    for precision in PRECISIONS
    for who in ("ours", "trl")
)
"""Ours; and the loss of `trl.SFTTrainer` for `transformers.GPT2LMHeadModel`, with adapters of
`peft`; bf16 there is autocast."""
RANK, ALPHA = 8, 16
_IGNORED = -100  # what trl has as the label of a token that is not learned
_Step = Callable[[], float]


def run(
    rounds: int = 3,
    steps: int = 3,
    contenders: Sequence[str] = CONTENDERS,
    shape: StepShape | None = None,
    warmup: int = 2,
    say: Callable[[str], object] = lambda _: None,
) -> dict[str, Any]:
    """Measure the contenders.

    Args:
        rounds: processes that each contender gets.
        steps: timed steps of each process.
        contenders: some of `CONTENDERS`.
        shape: the model and batch; the one of `StepShape()` if not given.
        warmup: steps of each process before the timed ones, the first of which compiles.
        say: is told what was measured as it goes.

    Returns:
        `ratio_METHOD_PRECISION` of tokens a second, ours to trl's; `learned_bytes_ratio_PRECISION`,
        of ours by LoRA to those of ours by full tuning; and `contenders`, a row for each:
        `contender`; `tokens_per_second` (of the median step), `tokens_per_second_min` and `_max`;
        `learned_bytes` (of gradients and of the optimizer's state); `peak_memory_bytes` (largest
        resident size of a process, compilation included); `loss` of the last step; `timed_steps`.

    Raises:
        InputError: trl, peft, PyTorch or transformers is not installed.
        RunError: a contender's process failed.
    """
    if any(name.startswith("trl") for name in contenders):
        require("torch", "transformers", "trl", "peft")
    shape = shape or StepShape()
    with tempfile.TemporaryDirectory() as cache:

        def measure(name: str) -> Measured:
            variables = {"JAX_COMPILATION_CACHE_DIR": cache} | huge_page_variables()
            if name.startswith("trl"):
                variables = {"HF_HUB_OFFLINE": "1"}
            measured = run_contender(__name__, name, shape, steps, warmup, variables)
            say(f"{name}: {describe(shape, measured)}")
            return measured

        measured = alternate(rounds, contenders, measure)
    rows = [
        {"contender": name, **sum_up(shape, each), "learned_bytes": each[-1]["learned_bytes"]}
        for name, each in measured.items()
    ]
    return {"contenders": rows, **_ratios(rows)}


def _ratios(rows: list[dict[str, Any]]) -> dict[str, float]:
    by_name, ratios = {row["contender"]: row for row in rows}, {}
    wanted = [
        (f"ratio_{method}_{precision}", "tokens_per_second", *pair)
        for precision in PRECISIONS
        for method in METHODS
        for pair in [(f"ours_{method}_{precision}", f"trl_{method}_{precision}")]
    ] + [
        (f"learned_bytes_ratio_{x}", "learned_bytes", f"ours_lora_{x}", f"ours_full_{x}")
        for x in PRECISIONS
    ]
    for name, figure, one, other in wanted:
        if {one, other} <= by_name.keys():
            ratios[name] = by_name[one][figure] / by_name[other][figure]
    return ratios


def _drawn(shape: StepShape) -> tuple[Any, Any]:
    """Return tokens `[B, T + 1]`, and which of them are answers."""
    tokens = shape.draw()
    length = tokens.shape[1]
    return tokens, np.broadcast_to(np.arange(length) >= 0.4 * length, tokens.shape)


def _our_step(shape: StepShape, method: Any, precision: Any) -> tuple[_Step, Callable[[], int]]:
    """Return a function that takes a step, and one that gives the bytes of what learns."""
    import jax

    from fugaku_jax.config import (
        Config,
        DataConfig,
        OptimizerConfig,
        TrainingConfig,
        TuningConfig,
    )
    from fugaku_jax.data.batch import Batch
    from fugaku_jax.models.layout import make_layout
    from fugaku_jax.training.state import init_state
    from fugaku_jax.training.step import make_train_step

    config = Config(
        model=shape.model(),
        optimizer=OptimizerConfig(learning_rate=1e-4),
        training=TrainingConfig(steps=1000, batch_size=shape.batch_size, precision=precision),
        data=DataConfig(learn="answers", reset_at_document=True),
        tuning=TuningConfig(method, rank=RANK, alpha=ALPHA),
    )
    layout = make_layout(config)
    tokens, answers = _drawn(shape)
    weights = answers[:, 1:].astype(np.float32)
    segments = np.zeros(weights.shape, np.int32)
    batch = Batch(tokens[None], weights[None], segments[None])
    batch = jax.device_put(batch, layout.rows)
    state = init_state(layout)
    train_step = make_train_step(layout)
    learned = jax.tree.leaves((state.parameters, state.moments))  # a gradient is as a parameter

    def step() -> float:
        nonlocal state
        state, metrics = train_step(state, batch)
        jax.block_until_ready(state)
        return float(metrics["loss"])

    learned_bytes = sum(x.nbytes for x in learned if x.ndim)
    return step, lambda: learned_bytes


def _trl_step(shape: StepShape, method: str, precision: str) -> tuple[_Step, Callable[[], int]]:
    """Return a function that takes a step, and one that gives the bytes of what learns then."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
    from trl import SFTConfig, SFTTrainer

    torch.manual_seed(0)
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=shape.vocab_size,
            n_positions=shape.sequence_length + 1,
            n_embd=shape.d_model,
            n_layer=shape.n_layers,
            n_head=shape.n_heads,
            **NO_DROPOUT,
        )
    )
    names = ["c_attn", "c_proj", "c_fc"]
    adapters = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=names, fan_in_fan_out=True)
    tokens, answers = _drawn(shape)
    rows = [
        {"input_ids": row.tolist(), "labels": np.where(learned, row, _IGNORED).tolist()}
        for row, learned in zip(tokens, answers, strict=True)
    ]
    reader = PreTrainedTokenizerFast(  # which nothing is read by
        tokenizer_object=Tokenizer(WordLevel({"end": 0}, "end")), eos_token="end", pad_token="end"
    )
    with tempfile.TemporaryDirectory() as folder:
        trainer = SFTTrainer(
            model,
            SFTConfig(
                folder,
                use_cpu=True,
                bf16=False,
                max_length=None,
                report_to="none",
                gradient_checkpointing=False,
            ),
            train_dataset=Dataset.from_list(rows),
            processing_class=reader,
            peft_config=adapters if method == "lora" else None,
        )
    model = trainer.model.train()
    learned = [x for x in model.parameters() if x.requires_grad]
    optimizer = torch.optim.AdamW(learned, **ADAMW)
    batch = trainer.data_collator(rows)

    def step() -> float:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = trainer.compute_loss(model, dict(batch))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learned, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    def learned_bytes() -> int:
        kept = [x for each in optimizer.state.values() for x in each.values() if x.ndim]
        return sum(x.nbytes for x in [*learned, *kept])  # a gradient is as a parameter

    return step, learned_bytes


def _make(name: str, shape: StepShape) -> tuple[_Step, Callable[[], Measured]]:
    """Return a contender's step, and what tells the bytes of what learns."""
    who, method, precision = name.split("_")
    step, learned_bytes = (_our_step if who == "ours" else _trl_step)(shape, method, precision)
    return step, lambda: {"learned_bytes": learned_bytes()}


if __name__ == "__main__":
    print_steps(_make)
