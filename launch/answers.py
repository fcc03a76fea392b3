"""How `trace.py` gives an answer: for people, as JSON, as a page."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import tyro

from fugaku_jax.tracing.page import AnswerPage, write_page


@dataclasses.dataclass(frozen=True)
class How:
    """What every question may be asked with."""

    store: str | None = None
    """Folder or URL of the run's store, if it is no longer where the run found it."""
    html: Path | None = None
    """Write the answer there too, as a page with texts, documents, licences and steps."""
    as_json: Annotated[bool, tyro.conf.arg(name="json"), tyro.conf.FlagCreatePairsOff] = False
    """Print one JSON object."""


def tell(how: How, answer: Any, page: Callable[[], AnswerPage], said: str | None = None) -> None:
    """Print an answer, and write its page if that is asked for.

    Args:
        how: what was asked with.
        answer: a dataclass; or values by name, of which the lists hold dataclasses.
        page: makes the page.
        said: what is printed for people; the answer, or all that its lists hold, if not given.

    Raises:
        InputError: the page cannot be written.
    """
    if how.html:
        write_page(how.html, page())
    if how.as_json:
        print(json.dumps(answer, default=dataclasses.asdict, ensure_ascii=False))
    elif said is not None or not isinstance(answer, dict):
        print(answer if said is None else said)
    else:
        for values in answer.values():
            for each in values if isinstance(values, list) else ():
                print(each)
