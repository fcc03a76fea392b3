"""Tokens a second of generation beside `transformers`, in bf16, one machine, one run.

Each contender runs in a process of its own, one process at a time, with the same weights' shapes
and prompts, others in each call; processes alternate, round by round. Ours answers a call's prompts
by an engine with a slot for each. The most probable token is taken each time and
nothing ends a text early. Loading, compilation and the first call are not timed; the prompt's pass
is.

As a program, this module is one contender's process: `python -m fugaku_jax.benchmarks.generation
OURS_OR_THEIRS '{...}'`.
"""

import dataclasses
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fugaku_jax.benchmarks.processes import require, run_module, token_speeds
from fugaku_jax.huge_pages import huge_page_variables

CONTENDERS = ("fugaku_jax", "transformers")


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
    """Measure both contenders.

    Args:
        rounds: processes that each contender gets for each batch.
        calls: timed calls of each process.
        batches: prompts of a call.
        shape: the model and the lengths; those of `GenerationShape()` if not given.
        say: is told what was measured as it goes.

    Returns:
        `ratio_batch_N` for each batch: our speed by theirs, of the median calls;
        `aggregate_batch_N`, the same by theirs of the first batch; and `contenders`, a row for each
        and each batch: `contender`, `batch`, `tokens_per_second` (new tokens of all rows, of the
        median call), `tokens_per_second_min` and `_max`, `timed_calls`.

    Raises:
        InputError: PyTorch or transformers is not installed.
        RunError: a contender's process failed.
    """
    require("torch", "transformers")
    shape = shape or GenerationShape()
    seconds: dict[tuple[str, int], list[float]] = {}
    for batch in batches:
        for number in range(rounds):
            for name in CONTENDERS[:: -1 if number % 2 else 1]:
                found = _run_process(name, batch, calls, shape)
                seconds.setdefault((name, batch), []).extend(found)
                speed = batch * shape.new_tokens / statistics.median(found)
                say(f"{name}, batch {batch}: {speed:.1f} tokens/s")
    figures: dict[str, Any] = {
        f"ratio_batch_{batch}": statistics.median(seconds["transformers", batch])
        / statistics.median(seconds["fugaku_jax", batch])
        for batch in batches
    }
    first = batches[0]
    for batch in batches[1:]:
        one_by_one = statistics.median(seconds["transformers", first]) * batch / first
        ours = statistics.median(seconds["fugaku_jax", batch])
        figures[f"aggregate_batch_{batch}"] = one_by_one / ours
    return figures | {"contenders": [_row(*key, shape, seconds[key]) for key in seconds]}


def _run_process(name: str, batch: int, calls: int, shape: GenerationShape) -> list[float]:
    arguments = {"batch": batch, "calls": calls, "shape": dataclasses.asdict(shape)}
    # As `launch/generate.py` starts itself.
    variables = huge_page_variables() if name == "fugaku_jax" else {}
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


class NoText:
    """A tokenizer that knows all ids, of which none ends a text and none has any text."""

    end_of_document = 0

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size, self.ends = vocab_size, (vocab_size,)

    def byte(self, _: int) -> None:
        return None

    def decode(self, _: Sequence[int]) -> str:
        return ""


def make_engine(shape: GenerationShape, slots: int) -> Any:
    """Return an engine of a model with random weights, whose tokens have no text."""
    import jax

    from fugaku_jax.config import ModelConfig
    from fugaku_jax.inference.engine import Engine
    from fugaku_jax.layout.mesh import active, make_mesh
    from fugaku_jax.models.gpt import GPT

    config = ModelConfig(
        vocab_size=shape.vocab_size,
        n_layers=shape.n_layers,
        d_model=shape.d_model,
        n_heads=shape.n_heads,
        sequence_length=shape.positions,
    )
    tokenizer: Any = NoText(shape.vocab_size)
    mesh, rules = make_mesh()
    with active(mesh):
        model = GPT(config, jax.random.key(0), rules)
    engine = Engine(model, tokenizer, tokenizer.end_of_document, slots=slots)
    engine.prepare()
    return engine


def _ours(batch: int, shape: GenerationShape) -> Callable[[int], int]:
    """Return a function that generates and returns how many tokens a row got."""
    from fugaku_jax.inference.continuation import Options

    engine = make_engine(shape, batch)
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


def main() -> None:
    """Run as one contender: print the seconds of its calls as JSON."""
    name, arguments = sys.argv[1], json.loads(sys.argv[2])
    shape = GenerationShape(**arguments["shape"])
    generate = {"fugaku_jax": _ours, "transformers": _theirs}[name](arguments["batch"], shape)
    seconds = []
    for call in range(1 + arguments["calls"]):
        start = time.perf_counter()
        assert generate(call) == shape.new_tokens
        seconds.append(time.perf_counter() - start)
    print(json.dumps({"seconds": seconds[1:]}))


if __name__ == "__main__":
    main()
