"""A directory of results that says what they were made with, so that no others get among them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fugaku_jax.errors import InputError
from fugaku_jax.json_file import read_json
from fugaku_jax.run.whole_file import write_json


def begin_or_go_on(folder: Path, name: str, made_with: Mapping[str, Any]) -> None:
    """Begin a directory of results, or refuse one whose results were made otherwise.

    Args:
        folder: it; made if it is not there.
        name: of the JSON file in it that says what they were made with.
        made_with: all that decides them.

    Raises:
        InputError: what is there was made otherwise, or the directory cannot be written.
    """
    path = folder / name
    there = read_json(path) if path.exists() else made_with
    if differing := [each for each in made_with if there.get(each) != made_with[each]]:
        raise InputError(
            f"--out {folder} has answers of another kind (differing: {', '.join(differing)}); give "
            "another directory, or the same again."
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(path, made_with)
    except OSError as error:
        raise InputError(f"--out {folder} cannot be written: {error.strerror}.") from error
