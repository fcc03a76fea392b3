"""What every program in `launch/` shares: arguments, one-sentence errors, exit codes, recipes."""

import contextlib
import functools
import importlib.util
import io
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn, TypeVar

import tyro

from fugaku_jax.config import Config
from fugaku_jax.errors import InputError

RECIPES = Path(__file__).parent.parent / "configs"
Result = TypeVar("Result")


def run_program(main: Callable[[], int | None]) -> NoReturn:
    """Run a program and leave with its exit code: 2, and one sentence, for wrong input."""
    try:
        sys.exit(main())
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:  # what read our output has seen enough
        sys.stderr.close()
        sys.exit(0)


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


def load_recipe(name: str) -> Config:
    """Call the recipe `configs/NAME.py`.

    Raises:
        InputError: there is no such recipe; the sentence lists those that are.
    """
    recipes = sorted(path.stem for path in RECIPES.glob("[a-z]*.py"))
    if name not in recipes:
        raise InputError(f"{name!r} is no recipe; there are {', '.join(recipes)}.")
    return getattr(load_module(RECIPES / f"{name}.py"), name)()


def load_module(path: Path) -> ModuleType:
    """Load a Python file of this repository that belongs to no package."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # where its dataclasses look for their annotations
    spec.loader.exec_module(module)
    return module


def _deferred(function: Callable[..., Result]) -> Callable[..., Callable[[], Result]]:
    """Let tyro see the signature of `function` but not run it yet."""

    @functools.wraps(function)
    def defer(*args: Any, **kwargs: Any) -> Callable[[], Result]:
        return lambda: function(*args, **kwargs)

    return defer


def _sentence(box: str) -> str:
    """Turn the box that tyro draws around an error into a sentence."""
    lines = [re.sub(r"^[│╭╰]\s?|\s*[│╮╯]$", "", line).strip() for line in box.splitlines()]
    body = [line for line in lines if line and not line.startswith("─ ")]
    rules = [i for i, line in enumerate(body) if set(line) == {"─"}] + [len(body)]
    sentence = " ".join(body[: rules[0]])
    # A field's own error already names it: "Error parsing config.model: model.n_heads is 7, ...".
    sentence = re.sub(r"^Error parsing (config\.\w+: )?", "", sentence)
    rest = [line.split()[0] for line in body[rules[0] :] if line.startswith("--")]
    if "Unrecognized" in sentence and rest:
        sentence += f"; perhaps you meant {rest[0]}"
    return sentence.rstrip(".").replace(". Expected", "; expected") + "."
