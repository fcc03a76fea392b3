"""A page that shows where the parts of a text come from. Needs nothing else to be read."""

from importlib import resources
from itertools import groupby
from pathlib import Path

import jinja2

from fugaku_jax.errors import InputError
from fugaku_jax.run.whole_file import replace_file
from fugaku_jax.tracing.matches import TracedText
from fugaku_jax.tracing.rows import stated


def write_page(path: Path, found: TracedText, steps: int) -> None:
    """Write the page of a text, its spans underlined, with documents, licences and steps.

    Args:
        path: of the page; a file that is there is replaced.
        found: where the text stands.
        steps: how many the run has taken.

    Raises:
        InputError: it cannot be written there.
    """
    page = _template().render(pieces=_pieces(found), found=found, steps=steps, stated=stated)
    try:
        replace_file(path, lambda file: file.write(page.encode()))
    except OSError as error:
        raise InputError(f"--html {path}: cannot be written ({error.strerror}).") from error


def _pieces(found: TracedText) -> list[tuple[int | None, str]]:
    """Cut a text where spans begin and end; each piece is with its rarest span, if it has one."""
    spans = [0] * len(found.text)  # of each character, counted from 1
    for number, span in reversed(list(enumerate(found.spans, 1))):
        end = span.first_character + len(span.text)
        spans[span.first_character : end] = [number] * len(span.text)
    pieces = []
    for number, group in groupby(zip(spans, found.text, strict=True), key=lambda each: each[0]):
        pieces.append((number or None, "".join(character for _, character in group)))
    return pieces


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    file = resources.files("fugaku_jax.tracing") / "page.html.jinja"
    return environment.from_string(file.read_text("utf-8"))
