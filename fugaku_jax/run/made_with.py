"""Results that say what they were made with, so that no others get among them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fugaku_jax.errors import InputError
from fugaku_jax.json_file import read_json
from fugaku_jax.run.whole_file import write_json


def begin_or_go_on(out: Path, path: Path, made_with: Mapping[str, Any]) -> None:
    """Begin results, or refuse those that are there if they were made otherwise.

    Args:
        out: their directory or file, as the user named it.
        path: the JSON file that says what they were made with; its directory is made if it is not
            there.
        made_with: all that decides them.

    Raises:
        InputError: what is there was made otherwise, or the file cannot be written.
    """
    there = read_json(path) if out.exists() and path.exists() else made_with
    if differing := [each for each in made_with if there.get(each) != made_with[each]]:
        raise InputError(
            f"--out {out} has answers of another kind (differing: {', '.join(differing)}); give "
            "another one, or the same settings again."
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, made_with)
    except OSError as error:
        raise InputError(f"--out {out} cannot be written: {error.strerror}.") from error
