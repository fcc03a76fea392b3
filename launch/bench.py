"""Measure this machine: steps, tuning, generation beside PyTorch, tokenising, pipelines, scaling.

python launch/bench.py tokenize texts.jsonl.gz --tokenizer llm-jp.model
python launch/bench.py scaling --rounds 2 --json
"""

import functools
import sys
from pathlib import Path
from typing import Annotated, Literal

import tyro
from command import parse, run_program

from fugaku_jax.benchmarks.tables import show

Json = Annotated[bool, tyro.conf.arg(help="Print one JSON object as the last line.")]
Inputs = tyro.conf.Positional[tuple[Path, ...]]
say = functools.partial(print, file=sys.stderr, flush=True)


def step(rounds: int = 3, steps: int = 3, json: Json = False) -> None:
    """Compare a training step with the same model in PyTorch (needs `pip install .[test]`).

    Args:
        rounds: Processes that each contender gets, in turn.
        steps: Timed steps of each process.
    """
    from fugaku_jax.benchmarks.step import run

    show(run(rounds, steps, say=say), json)


def tuning(rounds: int = 3, steps: int = 3, json: Json = False) -> None:
    """Compare a tuning step, full and by LoRA, with trl and peft (needs `pip install .[test]`).

    Args:
        rounds: Processes that each contender gets, in turn.
        steps: Timed steps of each process.
    """
    from fugaku_jax.benchmarks.tuning import run

    show(run(rounds, steps, say=say), json)


def generate(rounds: int = 3, calls: int = 3, json: Json = False) -> None:
    """Compare generation in bf16 with `transformers` (needs `pip install .[test]`).

    Where `llama-cpp-python` is installed (`make gguf`), llama.cpp is compared with too.

    Args:
        rounds: Processes that each contender gets for each batch, in turn.
        calls: Timed calls of each process, each of 64 tokens after 64.
    """
    from fugaku_jax.benchmarks.generation import run

    show(run(rounds, calls, say=say), json)


def agents(
    prompts: int = 2000,
    alone: int = 50,
    slots: int = 64,
    weights: Literal["int8"] | None = None,
    json: Json = False,
) -> None:
    """Compare prompts that begin alike side by side with the same one after the other.

    Args:
        prompts: How many are answered side by side, each of 200 common tokens and 20 of its own.
        alone: How many are answered one after the other.
        slots: Most that are answered at once.
        weights: Type of the weights, if not bf16.
    """
    from fugaku_jax.benchmarks.agents import run

    show(run(prompts, alone, slots, weights, say=say), json)


def kernels(
    rounds: int = 5,
    group: Literal["products", "attention", "adamw"] | None = None,
    json: Json = False,
) -> None:
    """Compare native kernels with XLA's and PyTorch's operations, and with the machine's limits.

    Args:
        rounds: Timed calls of each, in turn.
        group: Only these operations.
    """
    from fugaku_jax.benchmarks.kernels import compare

    show(compare(rounds, group, say), json)


def tokenize(inputs: Inputs, tokenizer: Path, json: Json = False) -> None:
    """Time tokenising beside one plain SentencePiece process.

    Args:
        inputs: Files as `launch/data.py build` takes them.
        tokenizer: A SentencePiece .model file.
    """
    from fugaku_jax.benchmarks import data

    show(data.tokenize(inputs, tokenizer), json, contender=tokenizer.name)


def load(
    store: str = "builtin",
    sequence_length: int = 2048,
    batch_size: int = 64,
    steps: int = 50,
    json: Json = False,
) -> None:
    """Time the reading of random samples from a warm file.

    Args:
        store: Folder or URL of a store, or builtin.
        sequence_length: Tokens a sample.
        batch_size: Samples a step.
        steps: Steps timed.
    """
    from fugaku_jax.benchmarks import data

    show(data.load(store, sequence_length, batch_size, steps), json, contender=store)


def pipeline(json: Json = False) -> None:
    """Measure how long stages idle in 2 and 4 processes, beside the table of their schedule."""
    from fugaku_jax.benchmarks.pipeline import run

    shown = ("idle_measured", "idle_modelled", "idle_formula", "ratio", "load")
    show({"pipelines": run(say=say)}, json, pipelines=shown)


def scaling(rounds: int = 3, json: Json = False) -> None:
    """Compare a step in 1 and 2 processes of a core each, and time collectives."""
    from fugaku_jax.benchmarks.scaling import run, run_collectives

    figures = {"steps": run(rounds, say=say), "collectives": run_collectives(say=say)}
    show(figures, json, collectives=("seconds", "load"))


def torus(
    shapes: tuple[str, ...] = ("2x3x2", "2x3", "2x4", "3x3"),
    megabytes: tuple[float, ...] = (1, 4, 16, 64),
    megabits: float = 20,
    rounds: int = 3,
    json: Json = False,
) -> None:
    """Compare all-reduces over a torus of slow links: XLA's over gloo, and ours (needs root).

    Args:
        shapes: Of the tori, each a process a node in a network namespace of its own.
        megabytes: Of fp32 that each process adds.
        megabits: A second, of each link each way.
        rounds: Timed calls of each, in turn.
    """
    from fugaku_jax.benchmarks.torus import run

    shown = ("bytes", "flat_seconds", "ours_seconds", "modelled_seconds", "ratio_to_flat")
    show({"torus": run(shapes, megabytes, megabits, rounds, say)}, json, torus=shown)


def overlap(
    megabits: float = 100, rounds: int = 5, picture: Path | None = None, json: Json = False
) -> None:
    """Compare steps of two nodes on a slow link, and draw what travels while layers compute.

    Args:
        megabits: A second, of the link each way (needs root, as `torus`).
        rounds: Timed steps of each, in turn.
        picture: The .svg file to draw.
    """
    from fugaku_jax.benchmarks.overlap import run

    shown = ("seconds", "seconds_min", "seconds_max", "travelled_seconds", "waited_seconds")
    show({"steps": run(megabits, rounds, picture, say=say)}, json, steps=shown)


def startup(
    processes: tuple[int, ...] = (4, 8, 16, 32),
    collectives: tuple[Literal["flat", "torus"], ...] = ("flat", "torus"),
    json: Json = False,
) -> None:
    """Time processes of one thread from start to first step, and count their sockets.

    Args:
        processes: How many, of 2, 4, 8, 16, 32 and 64; each number by itself.
        collectives: How they sum: in one group, or between neighbours.
    """
    from fugaku_jax.benchmarks.startup import run

    shown = (
        *("joined_seconds", "compiled_seconds", "first_step_seconds", "sockets"),
        *("sockets_of_others", "barrier_ms", "vote_ms", "decision_ms", "stop_ms", "load"),
    )
    show({"startups": run(processes, collectives, say)}, json, startups=shown)


def serving(
    url: str = "http://127.0.0.1:8000",
    clients: int = 200,
    seconds: float = 60,
    tokens: int = 32,
    api_key: str | None = None,
    json: Json = False,
) -> None:
    """Let many clients ask a server of `launch/serve.py`, and tell how long they wait.

    Args:
        url: Of the server.
        clients: How many ask at a time, each one request after another.
        seconds: In which requests begin.
        tokens: Of an answer, at most.
        api_key: Of the server, if it wants one.
    """
    from fugaku_jax.benchmarks.serving import run

    show(run(url, clients, seconds, tokens, api_key, say), json)


def model(
    layouts: tuple[Literal["one", "data", "tensor", "both"], ...] = (),
    rounds: int = 3,
    steps: int = 6,
    machine: str = "server",
    json: Json = False,
) -> None:
    """Compare small layouts' steps with what the step-time model says, given measured kernels.

    Args:
        layouts: One process, two that share the data, two that share each layer, or four that
            share both; all of them if not given.
        rounds: Timed calls of each kernel.
        steps: Timed steps of each layout.
        machine: Whose network joins processes here: of configs/machines, or a .toml file.
    """
    from machines import load_machine

    from fugaku_jax.benchmarks.modelled_steps import LAYOUTS, compare

    chosen = [each for each in LAYOUTS if each.name in layouts or not layouts]
    show(compare(load_machine(machine), rounds, steps, chosen, say), json)


def grading(
    run_dir: Annotated[Path, tyro.conf.Positional],
    tasks: tuple[str, ...],
    data: Path | None = None,
    limit: int = 100,
    rounds: int = 2,
    alone: bool = False,
    json: Json = False,
) -> None:
    """Compare tasks done by a run with lm-evaluation-harness's `hf` model on its export.

    Args:
        run_dir: The run.
        tasks: As of `evaluate.py harness`.
        data: Likewise.
        limit: Most items of a task.
        rounds: Timed rounds of each, in turn.
        alone: Have the run continue texts one at a time, too.
    """
    from fugaku_jax.benchmarks.grading import run

    shown = (
        *("items", "figures_apart", "nats_apart", "texts_differing"),
        *("ours_seconds", "theirs_seconds", "ratio"),
        *(("alone_differing", "alone_seconds", "alone_ratio") if alone else ()),
    )
    show(run(run_dir, tasks, data, limit, rounds, alone, say), json, tasks=shown)


def main() -> None:
    """Read the arguments and measure."""
    on_a_node = (model, step, tuning, generate, agents, serving, grading, kernels, tokenize, load)
    programs = (*on_a_node, pipeline, scaling, startup, torus, overlap)
    parse({each.__name__: each for each in programs}, description=__doc__)


if __name__ == "__main__":
    run_program(main)
