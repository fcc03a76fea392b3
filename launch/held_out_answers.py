"""`evaluate.py answers`: a model answers the dialogues that a tuned run has held out."""

import json as json_format
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.table import Table

from fugaku_jax.compile_cache import use_compile_cache
from fugaku_jax.errors import InputError
from fugaku_jax.evaluation.held_out_answers import Answered, answer_held_out
from fugaku_jax.evaluation.perplexity import Perplexity
from fugaku_jax.inference.continuation import Options
from fugaku_jax.inference.engine import Engine
from fugaku_jax.interop.load import load_for_inference
from fugaku_jax.run.configuration import read_config
from fugaku_jax.run.identity import open_run_store

Model = tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="RUN_OR_HF_DIR")]]


def answers(
    model: Model,
    of: Path,
    limit: int | None = None,
    max_tokens: int = 256,
    temperature: float = 0.8,
    seed: int = 0,
    dtype: Literal["bfloat16", "float32", "float16"] = "float32",
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
) -> None:
    """Print how a model predicts held-out answers, and how many of its own it ends by itself.

    Args:
        model: Run directory, whose newest checkpoint is taken, or a model directory of Hugging
            Face's; a tuned one, or what it began with.
        of: The tuned run whose held-out dialogues are taken, told as they were to it.
        limit: Most dialogues to answer; all if not given.
        max_tokens: Most tokens of an answer.
        temperature: What logits are divided by; 0 takes the most probable token.
        seed: Of the random choice.
        dtype: Type of weights, cache and arithmetic.
        json: Print one JSON object instead of a table.
    """
    if limit is not None and limit < 1:
        raise InputError(f"--limit is {limit}, but it must be greater than 0.")
    options = Options(max_tokens, temperature, seed=seed)
    use_compile_cache()
    config = read_config(of)
    store = open_run_store(of, config, None)
    if not store.row_tokens:
        raise InputError(f"--of {of}: was not tuned on dialogues.")
    loaded = load_for_inference(model, dtype)
    if loaded.config.sequence_length != store.row_tokens:
        raise InputError(
            f"{model} reads {loaded.config.sequence_length} tokens, but the dialogues of {of} are "
            f"packed into rows of {store.row_tokens}."
        )
    loss = Perplexity(store, replace(config, model=loaded.config))(loaded.model).total
    engine = Engine(loaded.model, loaded.tokenizer, loaded.first_token, dtype)
    answered = answer_held_out(engine, store, options, limit)
    if json:
        found = {
            "model": str(model),
            "of": str(of),
            "nats_per_token": loss.nats_per_token,
            "answered": answered.asked,
            "ended": answered.ended,
            "share_ended": answered.share_ended,
            "tokens": answered.tokens,
        }
        print(json_format.dumps(found, ensure_ascii=False))
    else:
        _show(model, loss.nats_per_token, answered)


def _show(model: Path, loss: float, answered: Answered) -> None:
    table = Table(title=f"Held-out answers by {model}", title_justify="left")
    for heading in ("nats a token", "answered", "ended by itself", "share", "tokens an answer"):
        table.add_column(heading, justify="right")
    table.add_row(
        f"{loss:.4f}",
        f"{answered.asked:,}",
        f"{answered.ended:,}",
        f"{answered.share_ended:.1%}",
        f"{answered.tokens / answered.asked:.1f}",
    )
    Console().print(table)
