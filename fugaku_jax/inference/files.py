"""Prompts from a JSONL file, and their continuations in another."""

import dataclasses
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from fugaku_jax.data.lines import parse_line, read_lines
from fugaku_jax.errors import InputError
from fugaku_jax.inference.continuation import Continuation, Options
from fugaku_jax.inference.generate import Generator

BATCH = 16
"""Lines that are continued at once."""
_KINDS: dict[str, tuple[tuple[type, ...], str]] = {
    "prompt": ((str,), "a string"),
    "max_tokens": ((int,), "a whole number"),
    "temperature": ((int, float), "a number"),
    "top_k": ((int,), "a whole number"),
    "top_p": ((int, float), "a number"),
    "repetition_penalty": ((int, float), "a number"),
    "stop": ((list,), "a list of strings"),
    "seed": ((int,), "a whole number"),
}


def continue_file(generator: Generator, source: Path, out: Path, options: Options) -> int:
    """Continue every prompt of a file; return how many there are.

    A line of the result is the line of the source with `text`, `finish`, `tokens` and `log_probs`.
    Every line of the source is looked at before the first is continued; results are written as
    whole lines, in order, a batch at a time.

    Args:
        source: a JSON object a line, with `prompt` and any of the options; read as corpora are.
        out: the file to write.
        options: of lines that do not say otherwise.

    Raises:
        InputError: a line is wrong, or a file cannot be read or written.
    """
    rows: list[tuple[dict[str, Any], Continuation]] = []
    for number, line, given in list(_read(source, options)):
        try:
            rows.append((line, generator.begin(line["prompt"], given)))
        except InputError as error:
            raise InputError(f"{source}, line {number}: {error}") from None
    with _opened(out, "wb", "written") as file:
        for first in range(0, len(rows), BATCH):
            some = rows[first : first + BATCH]
            for _ in generator.run([row for _, row in some]):
                pass
            for line, row in some:
                found = {"text": row.text, "finish": row.finish}
                found |= {"tokens": row.tokens, "log_probs": row.log_probs}
                file.write((json.dumps(line | found, ensure_ascii=False) + "\n").encode())
            file.flush()
    return len(rows)


def _read(source: Path, options: Options) -> Iterator[tuple[int, dict[str, Any], Options]]:
    """The number of each line that is not empty, what it holds, and its options."""
    with _opened(source, "rb", "read") as file:
        for number, text in enumerate(read_lines(file, source.name), start=1):
            if not text.strip():
                continue
            try:
                yield number, *_line(text, options)
            except InputError as error:
                raise InputError(f"{source}, line {number}: {error}") from None


def _line(text: bytes, options: Options) -> tuple[dict[str, Any], Options]:
    try:
        line = parse_line(text)
    except ValueError as error:
        raise InputError(f"this cannot be read: {error}.") from None
    if not isinstance(line, dict) or "prompt" not in line:
        raise InputError('this is no JSON object with a "prompt".')
    given: dict[str, Any] = {}
    for name, (kinds, said) in _KINDS.items():
        if name not in line:
            continue
        value = line[name]
        good = isinstance(value, kinds) and not isinstance(value, bool)
        if not good or (name == "stop" and not all(isinstance(each, str) for each in value)):
            raise InputError(f"{name} is {value!r}, but it must be {said}.")
        given[name] = (
            tuple(value) if kinds == (list,) else float(value) if float in kinds else value
        )
    try:
        given.pop("prompt").encode()
    except UnicodeEncodeError:
        raise InputError("prompt has half of a surrogate pair, which is no text.") from None
    return line, dataclasses.replace(options, **given)


@contextmanager
def _opened(path: Path, mode: str, done: str) -> Iterator[IO[bytes]]:
    try:
        with path.open(mode) as file:
            yield file
    except OSError as error:  # a damaged archive has no `strerror`
        raise InputError(f"{path} cannot be {done}: {error.strerror or error}.") from error
