"""What every program in `launch/` shares: arguments, one-sentence errors, exit codes."""

import contextlib
import functools
import io
import re
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, TypeVar

import tyro
from output import reader_has_gone

from fugaku_jax.cluster.hosts import leave
from fugaku_jax.errors import InputError, RunError

Result = TypeVar("Result")


def run_program(main: Callable[[], int | None]) -> NoReturn:
    """Run a program and leave with its exit code: 2, and one sentence, for wrong input.

    A fault that was foreseen is one sentence too, with exit code 1. A program whose output nobody
    reads any more ends with that code without a word. Characters that the terminal's encoding
    lacks are replaced: no text may end a program.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a notebook's shows every character
            stream.reconfigure(errors="replace")
    code: int | None = 1
    try:
        code = main()
        if sys.stdout:
            sys.stdout.flush()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 2
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
    except BrokenPipeError:
        code = 1
        if not reader_has_gone():
            traceback.print_exc()
    except Exception:
        traceback.print_exc()
    leave(code)


def parse(
    program: Callable[..., Result] | Mapping[str, Callable[..., Result]],
    args: list[str] | None = None,
    **options: Any,
) -> Result:
    """Call a function, or a subcommand's, with the command line's arguments, as tyro does.

    Raises:
        InputError: the arguments are wrong; tyro's explanation as one sentence.
    """
    # What the function itself prints must not be lost, so only parsing is captured.
    captured = io.StringIO()
    try:
        with contextlib.redirect_stderr(captured):
            if isinstance(program, Mapping):
                commands = {name: _deferred(function) for name, function in program.items()}
                call = tyro.extras.subcommand_cli_from_dict(commands, args=args, **options)
            else:
                call = tyro.cli(_deferred(program), args=args, **options)
    except SystemExit as stop:
        if not stop.code:
            raise
        raise InputError(_sentence(captured.getvalue())) from None
    return call()


def _deferred(function: Callable[..., Result]) -> Callable[..., Callable[[], Result]]:
    """Let tyro see the signature of `function` but not run it yet."""

    @functools.wraps(function)
    def defer(*args: Any, **kwargs: Any) -> Callable[[], Result]:
        return lambda: function(*args, **kwargs)

    return defer


def _sentence(box: str) -> str:
    """Turn the explanation that tyro draws, with or without a box around it, into a sentence."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", box)
    body = [line.strip("│ ") for line in plain.splitlines() if line[:1] not in "╭╰"]
    if set(body[1]) == {"-"}:  # without a box, the title stands in the text
        body = body[2:]
    rules = [i for i, line in enumerate(body) if line and set(line) <= {"─", "-"}] + [len(body)]
    sentence = " ".join(body[: rules[0]])
    # A field's own error already names it: "Error parsing config.model: model.n_heads is 7, ...".
    sentence = re.sub(r"^Error parsing (config\.\w+: )?", "", sentence)
    suggestions = [line.split()[0] for line in body[rules[0] :] if re.match(r"--\w", line)]
    if "Unrecognized" in sentence and suggestions:
        sentence += f"; perhaps you meant {suggestions[0]}"
    return sentence.rstrip(".").replace(". Expected", "; expected") + "."
