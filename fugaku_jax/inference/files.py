"""Prompts from a JSONL file, and their continuations in another."""

import dataclasses
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, get_type_hints

from fugaku_jax.data.lines import read_lines
from fugaku_jax.errors import InputError
from fugaku_jax.inference.continuation import Options
from fugaku_jax.inference.engine import Engine
from fugaku_jax.json_file import parse_json
from fugaku_jax.json_types import typed

LONGEST_LINE = 4_000_000
"""Most bytes of a line; a prompt that has room in a model has some ten thousand."""


def continue_file(engine: Engine, source: Path, out: Path, options: Options) -> int:
    """Continue every prompt of a file; return how many there are.

    A line of the result is the line of the source with `text`, `finish`, `tokens` and `log_probs`.
    Every line of the source is looked at before the first is continued; results are written as
    whole lines, in order, as soon as they are there.

    Args:
        source: a JSON object a line, with `prompt` and any of the options; read as corpora are.
        out: the file to write.
        options: of lines that do not say otherwise.

    Raises:
        InputError: a line is wrong, or a file cannot be read or written.
    """
    lines = list(_read(engine, source, options))
    with _opened(out, "wb", "written") as file:
        answers = engine.answers(asked for _, asked in lines)
        for (line, _), row in zip(lines, answers, strict=True):
            found = {"text": row.text, "finish": row.finish}
            found |= {"tokens": row.tokens, "log_probs": row.log_probs}
            text = json.dumps(line | found, ensure_ascii=False)
            file.write(text.encode() + b"\n")
            file.flush()
    return len(lines)


def _read(
    engine: Engine, source: Path, options: Options
) -> Iterator[tuple[dict[str, Any], tuple[list[int], Options]]]:
    with _opened(source, "rb", "read") as file:
        for number, data in enumerate(read_lines(file, source.name, LONGEST_LINE), start=1):
            if not data.strip():
                continue
            try:
                line, given = _line(data, options)
                tokens = engine.tokens(line["prompt"])
                engine.check(tokens)
                yield line, (tokens, given)
            except InputError as error:
                raise InputError(f"{source}, line {number}: {error}") from None


def _line(data: bytes, options: Options) -> tuple[dict[str, Any], Options]:
    if len(data) > LONGEST_LINE:
        raise InputError(f"this is longer than {LONGEST_LINE:,} bytes.")
    line = parse_json(data, "this")
    if "prompt" not in line:
        raise InputError('this has no "prompt".')
    typed(str, line["prompt"], "prompt")
    asked = {name: line[name] for name in get_type_hints(Options) if name in line}
    return line, typed(Options, dataclasses.asdict(options) | asked)


@contextmanager
def _opened(path: Path, mode: str, done: str) -> Iterator[IO[bytes]]:
    try:
        with path.open(mode) as file:
            yield file
    except OSError as error:  # a damaged archive has no `strerror`
        raise InputError(f"{path} cannot be {done}: {error.strerror or error}.") from error
