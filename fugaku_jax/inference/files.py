"""Prompts from a JSONL file, and their continuations in another."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

from fugaku_jax.data.lines import read_lines
from fugaku_jax.errors import InputError
from fugaku_jax.inference.continuation import Options
from fugaku_jax.inference.engine import Engine
from fugaku_jax.json_file import parse_json
from fugaku_jax.json_types import typed

FOUND = ("text", "finish", "tokens", "log_probs")
"""What is told of a continuation."""
LONGEST_LINE = 4_000_000
"""Most bytes of a line; a prompt that has room in a model has some ten thousand."""


class Prompt(NamedTuple):
    """A line of a file of prompts, and what it asks for."""

    line: dict[str, Any]
    tokens: list[int]
    options: Options


def read_prompts(engine: Engine, source: Path, options: Options) -> list[Prompt]:
    """Return the lines of a file of prompts; every one is looked at.

    Args:
        source: a JSON object a line, with `prompt` and any of the options; read as corpora are.
        options: of lines that do not say otherwise.

    Raises:
        InputError: a line is wrong, or the file cannot be read.
    """
    return list(_read(engine, source, options))


def continue_prompts_of_file(
    engine: Engine,
    prompts: Sequence[Prompt],
    done: Sequence[Mapping[str, Any]],
    write: Callable[[dict[str, Any]], None],
) -> None:
    """Continue the prompts that have no continuation yet, in order.

    A line of the result is the line of the source with `FOUND`.

    Args:
        done: lines of the result that are there.
        write: takes each further one as soon as it is there.

    Raises:
        InputError: what is there was made of other prompts.
    """
    for number, row in enumerate(done, start=1):
        line = prompts[number - 1].line if number <= len(prompts) else None
        if line is None or row != line | {name: row[name] for name in FOUND}:
            raise InputError(
                f"Line {number} of what --out has is no continuation of prompt {number}; give "
                "another file, or the same prompts again."
            )
    rest = prompts[len(done) :]
    answers = engine.answers((each.tokens, each.options) for each in rest)
    for (line, _, _), row in zip(rest, answers, strict=True):
        write(line | {name: getattr(row, name) for name in FOUND})


def _read(engine: Engine, source: Path, options: Options) -> Iterator[Prompt]:
    try:
        with source.open("rb") as file:
            for number, data in enumerate(read_lines(file, source.name, LONGEST_LINE), start=1):
                if data.strip():
                    yield _prompt(engine, data, options, f"{source}, line {number}")
    except OSError as error:  # a damaged archive has no `strerror`
        raise InputError(f"{source} cannot be read: {error.strerror or error}.") from error


def _prompt(engine: Engine, data: bytes, options: Options, name: str) -> Prompt:
    try:
        line, given = _line(data, options)
        tokens = engine.tokens(line["prompt"])
        engine.check(tokens)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    return Prompt(line, tokens, given)


def _line(data: bytes, options: Options) -> tuple[dict[str, Any], Options]:
    if len(data) > LONGEST_LINE:
        raise InputError(f"this is longer than {LONGEST_LINE:,} bytes.")
    line = parse_json(data, "this")
    if "prompt" not in line:
        raise InputError('this has no "prompt".')
    typed(str, line["prompt"], "prompt")
    asked = {name: line[name] for name in get_type_hints(Options) if name in line}
    return line, typed(Options, dataclasses.asdict(options) | asked)
