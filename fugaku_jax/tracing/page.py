"""A page that shows an answer: texts, documents, licences, and the steps that read them, as strips.

It needs nothing else to be read.
"""

from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import jinja2

from fugaku_jax.errors import InputError
from fugaku_jax.run.whole_file import replace_file
from fugaku_jax.tracing.matches import Origin
from fugaku_jax.tracing.rows import stated

_SHOWN = 600
"""Most characters of a section's text that are shown."""


@dataclass(frozen=True)
class Section:
    """A part of an answer, and the documents that it is about."""

    title: str
    note: str
    documents: tuple[Origin, ...]
    text: str = ""
    """What of a document it is about; `title` may say that already."""


@dataclass(frozen=True)
class AnswerPage:
    """An answer as it is shown."""

    title: str
    note: str
    heading: str
    """Of the sections."""
    sections: tuple[Section, ...]
    steps: int
    """How many steps a strip stands for."""
    shares: tuple[tuple[str, float], ...] = ()
    """Sources and licences, and what part is theirs."""
    pieces: tuple[tuple[int | None, str], ...] = ()
    """A text in parts, each with the number of the section about it, counted from 1, if any is."""


def write_page(path: Path, page: AnswerPage) -> None:
    """Write a page; a file that is there is replaced.

    Raises:
        InputError: it cannot be written there.
    """
    text = _template().render(page=page, stated=stated, shown=_SHOWN)
    try:
        replace_file(path, lambda file: file.write(text.encode()))
    except OSError as error:
        raise InputError(f"--html {path}: cannot be written ({error.strerror}).") from error


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    file = resources.files("fugaku_jax.tracing") / "page.html.jinja"
    return environment.from_string(file.read_text("utf-8"))
