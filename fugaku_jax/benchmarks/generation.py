"""Tokens a second of generation beside `transformers`, in bf16, one machine, one run.

Ours takes part twice, once with weights of int8. Where `llama_cpp` can be imported, llama.cpp is a
contender too.

Each contender runs in a process of its own, one process at a time, with the same weights' shapes
and prompts, others in each call; processes alternate, round by round. Ours answers a call's prompts
by an engine with a slot for each. The most probable token is taken each time and nothing ends a
text early. Loading, compilation and the first call are not timed; the prompt's pass is.

As a program, this module is one contender's process: `python -m fugaku_jax.benchmarks.generation
CONTENDER '{...}'`.
"""

import dataclasses
import functools
import importlib.util
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fugaku_jax.benchmarks.processes import require, run_module, token_speeds
from fugaku_jax.config import ModelConfig
from fugaku_jax.huge_pages import huge_page_variables

OURS, INT8 = "fugaku_jax", "fugaku_jax int8"
CONTENDERS = (OURS, INT8, "transformers")
LLAMA_CPP = "llama.cpp"


@dataclass(frozen=True)
class GenerationShape:
    """The model, GPT-2, and what it generates."""

    n_layers: int = 12
    d_model: int = 768
    n_heads: int = 12
    vocab_size: int = 50_304
    prompt_tokens: int = 64
    new_tokens: int = 64

    @property
    def positions(self) -> int:
        """Positions of the model: as many as are used."""
        return self.prompt_tokens + self.new_tokens


def run(
    rounds: int = 3,
    calls: int = 3,
    batches: Sequence[int] = (1, 16, 64),
    shape: GenerationShape | None = None,
    say: Callable[[str], object] = lambda _: None,
) -> dict[str, Any]:
    """Measure the contenders.

    Args:
        rounds: processes that each contender gets for each batch.
        calls: timed calls of each process.
        batches: prompts of a call.
        shape: the model and the lengths; those of `GenerationShape()` if not given.
        say: is told what was measured as it goes.

    Returns:
        `ratio_batch_N` for each batch: our speed by that of transformers, of the median calls;
        `ratio_int8_batch_N`, that of ours with weights of int8; `ratio_to_llama_cpp_batch_N` of
        the former where that is installed; `aggregate_batch_N` and `aggregate_int8_batch_N`, ours
        by that of transformers at the first batch; and `contenders`, a row for each and each batch:
        `contender`, `batch`, `tokens_per_second` (new tokens of all rows, of the median call),
        `tokens_per_second_min` and `_max`, `timed_calls`.

    Raises:
        InputError: PyTorch or transformers is not installed.
        RunError: a contender's process failed.
    """
    require("torch", "transformers")
    shape = shape or GenerationShape()
    has_llama_cpp = importlib.util.find_spec("llama_cpp") is not None
    contenders = (*CONTENDERS, LLAMA_CPP) if has_llama_cpp else CONTENDERS
    seconds: dict[tuple[str, int], list[float]] = {}
    for batch in batches:
        for number in range(rounds):
            for name in contenders[:: -1 if number % 2 else 1]:
                found = _run_process(name, batch, calls, shape)
                seconds.setdefault((name, batch), []).extend(found)
                speed = batch * shape.new_tokens / statistics.median(found)
                say(f"{name}, batch {batch}: {speed:.1f} tokens/s")
    ratios = {"ratio": (OURS, "transformers"), "ratio_int8": (INT8, "transformers")}
    if has_llama_cpp:
        ratios["ratio_to_llama_cpp"] = OURS, LLAMA_CPP
    figures: dict[str, Any] = {
        f"{ratio}_batch_{batch}": statistics.median(seconds[theirs, batch])
        / statistics.median(seconds[ours, batch])
        for ratio, (ours, theirs) in ratios.items()
        for batch in batches
    }
    first = batches[0]
    for batch in batches[1:]:
        one_by_one = statistics.median(seconds["transformers", first]) * batch / first
        for figure, name in (("aggregate", OURS), ("aggregate_int8", INT8)):
            ours = statistics.median(seconds[name, batch])
            figures[f"{figure}_batch_{batch}"] = one_by_one / ours
    return figures | {"contenders": [_row(*key, shape, seconds[key]) for key in seconds]}


def _run_process(name: str, batch: int, calls: int, shape: GenerationShape) -> list[float]:
    arguments = {"batch": batch, "calls": calls, "shape": dataclasses.asdict(shape)}
    # As `launch/generate.py` starts itself.
    variables = huge_page_variables() if name in (OURS, INT8) else {}
    program = __name__, name, json.dumps(arguments)
    (result,) = run_module(f"The contender {name}", *program, variables=variables)
    return result["seconds"]


def _row(name: str, batch: int, shape: GenerationShape, seconds: list[float]) -> dict[str, Any]:
    speeds = token_speeds(batch * shape.new_tokens, seconds)
    return {"contender": name, "batch": batch, **speeds, "timed_calls": len(seconds)}


def _prompts(batch: int, shape: GenerationShape, call: int) -> Any:
    import numpy as np

    size = batch, shape.prompt_tokens
    return np.random.default_rng(call).integers(0, shape.vocab_size, size)


def _config(shape: GenerationShape) -> ModelConfig:
    return ModelConfig(
        vocab_size=shape.vocab_size,
        n_layers=shape.n_layers,
        d_model=shape.d_model,
        n_heads=shape.n_heads,
        sequence_length=shape.positions,
    )


class NoText:
    """A tokenizer that knows all ids, of which none ends a text and none has any text."""

    end_of_document = 0

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size, self.ends = vocab_size, (vocab_size,)

    def byte(self, _: int) -> None:
        return None

    def decode(self, _: Sequence[int]) -> str:
        return ""


def make_engine(shape: GenerationShape, slots: int, weights: Any = None) -> Any:
    """Return an engine of a model with random weights, whose tokens have no text."""
    import jax

    from fugaku_jax.inference.engine import Engine
    from fugaku_jax.layout.mesh import active, make_mesh
    from fugaku_jax.models.gpt import GPT

    tokenizer: Any = NoText(shape.vocab_size)
    mesh, rules = make_mesh()
    with active(mesh):
        model = GPT(_config(shape), jax.random.key(0), rules)
    engine = Engine(model, tokenizer, tokenizer.end_of_document, slots=slots, weights=weights)
    engine.prepare()
    return engine


def _ours(batch: int, shape: GenerationShape, weights: Any = None) -> Callable[[int], int]:
    """Return a function that generates and returns how many tokens a row got."""
    from fugaku_jax.inference.continuation import Options

    engine = make_engine(shape, batch, weights)
    options = Options(max_tokens=shape.new_tokens, temperature=0.0)

    def generate(call: int) -> int:
        prompts = _prompts(batch, shape, call).tolist()
        rows = list(engine.answers((prompt, options) for prompt in prompts))
        return len(rows[-1].tokens)

    return generate


def _theirs(batch: int, shape: GenerationShape) -> Callable[[int], int]:
    """Return a function that generates and returns how many tokens a row got."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=shape.vocab_size,
        n_positions=shape.positions,
        n_embd=shape.d_model,
        n_layer=shape.n_layers,
        n_head=shape.n_heads,
    )
    model = GPT2LMHeadModel(config).to(torch.bfloat16).eval()

    def generate(call: int) -> int:
        prompts = torch.from_numpy(_prompts(batch, shape, call))
        with torch.inference_mode():
            tokens = model.generate(
                prompts,
                attention_mask=torch.ones_like(prompts),
                max_new_tokens=shape.new_tokens,
                min_new_tokens=shape.new_tokens,
                do_sample=False,
                pad_token_id=0,
            )
        return tokens.shape[1] - shape.prompt_tokens

    return generate


def _llama_cpp(batch: int, shape: GenerationShape) -> Callable[[int], int]:
    """Return a function that generates and returns how many tokens a row got."""
    from fugaku_jax.benchmarks.llama_cpp import Greedy

    generate = Greedy(_config(shape), batch, shape.prompt_tokens)
    return lambda call: generate(_prompts(batch, shape, call), shape.new_tokens).shape[1]


def main() -> None:
    """Run as one contender: print the seconds of its calls as JSON."""
    name, arguments = sys.argv[1], json.loads(sys.argv[2])
    shape = GenerationShape(**arguments["shape"])
    int8 = functools.partial(_ours, weights="int8")
    contenders = {OURS: _ours, INT8: int8, "transformers": _theirs, LLAMA_CPP: _llama_cpp}
    generate = contenders[name](arguments["batch"], shape)
    seconds = []
    for call in range(1 + arguments["calls"]):
        start = time.perf_counter()
        assert generate(call) == shape.new_tokens
        seconds.append(time.perf_counter() - start)
    print(json.dumps({"seconds": seconds[1:]}))


if __name__ == "__main__":
    main()
