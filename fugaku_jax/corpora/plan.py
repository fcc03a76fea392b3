"""What a preparation consists of: phases of tasks, fixed by the recipe and its files alone."""

import functools
import json
import resource
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from fugaku_jax.corpora.contamination import EvaluationTexts, read_evaluation_set
from fugaku_jax.corpora.extras import extra
from fugaku_jax.corpora.readers import WARC_ENDINGS, is_known, local_copy
from fugaku_jax.corpora.recipe import CorpusInput, CorpusRecipe, EvaluationSet
from fugaku_jax.data.corpus import TEXT_ENDINGS
from fugaku_jax.errors import InputError
from fugaku_jax.run.whole_file import write_json

PLACE_BITS = 40
"""Of a document's `order`: below them its number in its file, above the file's number."""
_RSS_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes
_COMPARED = 8
"""Parts whose documents a comparing task holds. It looks into the records of every part, so that
more such tasks are more work."""


@dataclass(frozen=True)
class InputFile:
    """A file that is read."""

    url: str
    size: int
    input: int
    """Which input of the recipe it belongs to."""

    @property
    def name(self) -> str:
        """What it is called in reasons."""
        return self.url.rstrip("/").rpartition("/")[2]


@dataclass(frozen=True)
class CorpusPlan:
    """A recipe, its files and where the work on them lies; the same on every machine."""

    recipe: CorpusRecipe
    files: tuple[InputFile, ...]
    root: str
    out: str

    @cached_property
    def parts(self) -> list[tuple[int, int, int]]:
        """The tasks that read: (file, part, parts of the file)."""
        found = []
        for index, file in enumerate(self.files):
            parts = max(1, -(-file.size // self.recipe.part_bytes))
            found += [(index, part, parts) for part in range(parts)]
        return found

    @property
    def phases(self) -> dict[str, int]:
        """How many tasks each phase has, in order; each phase needs all of the one before."""
        tasks = len(self.parts)
        return {"clean": tasks, "compare": -(-tasks // _COMPARED), "link": 1, "write": tasks}

    def missing(self, phase: str) -> list[int]:
        """Return the tasks of a phase that are still to be done."""
        return [each for each in range(self.phases[phase]) if not self.mark(phase, each).exists()]

    def input_of(self, task: int) -> CorpusInput:
        """Return the input that a task reads of."""
        return self.recipe.inputs[self.files[self.parts[task][0]].input]

    def work(self, *names: str) -> Path:
        """Return a file of the work, which is removed in the end."""
        return Path(self.out, "work", *names)

    def output(self, *names: str) -> Path:
        """Return a file of what is left in the end."""
        return Path(self.out, *names)

    def mark(self, phase: str, task: int) -> Path:
        """Return the file that says that a task is done, and holds what it counted."""
        return self.work(phase, f"{task:06d}.json")

    def set_mark(self, phase: str, task: int, **counted: Any) -> None:
        """Say that a task is done, what it counted, and how much memory this process has taken."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_UNIT
        write_json(self.mark(phase, task), {**counted, "peak_bytes": peak})

    def place(self, order: int) -> str:
        """Return where a document stood: `FILE:LINE`."""
        file = self.files[order >> PLACE_BITS]
        return f"{file.name}:{order & ((1 << PLACE_BITS) - 1)}"


@functools.cache
def evaluation_texts(sets: tuple[EvaluationSet, ...], root: str) -> EvaluationTexts | None:
    """Read the texts that must not be trained on, once a process; None if there are none.

    Raises:
        InputError: a file cannot be read, or a line lacks a field.
    """
    questions = []
    for each in sets:
        with local_copy(_located(each.path, root)) as path:
            questions += read_evaluation_set(each, path)
    return EvaluationTexts(questions) if sets else None


def make_plan(recipe: CorpusRecipe, out: Path, root: Path) -> CorpusPlan:
    """Find the files of a recipe.

    Raises:
        InputError: an input has no file, an ending is unknown, or `out` holds what another recipe,
            or other files, were made into.
    """
    files = []
    for index, each in enumerate(recipe.inputs):
        found = [pair for path in each.paths for pair in _matching(path, str(root))]
        if not found and not each.optional:
            raise InputError(f"input {each.name}: there is no file {', '.join(each.paths)}.")
        for url, size in found:
            if not is_known(url):
                known = " ".join((*TEXT_ENDINGS, *WARC_ENDINGS))
                raise InputError(
                    f"input {each.name}: the ending of {url} says no format of texts; "
                    f"known are {known}."
                )
            files.append(InputFile(url, size, index))
    if not files:
        raise InputError(f"recipe: none of its inputs is there; --root is {root}.")
    # What runs a task may stand in another folder.
    plan = CorpusPlan(recipe, tuple(files), str(root.absolute()), str(out.absolute()))
    identity = {
        "recipe": json.loads(recipe.digestible()),
        "files": [[file.url, file.size] for file in files],
    }
    _claim(out, json.loads(json.dumps(identity)))
    return plan


def _claim(out: Path, identity: dict[str, Any]) -> None:
    """Refuse a folder that something else was prepared in; else say what is being prepared."""
    path = out / "recipe.json"
    if path.exists():
        try:
            same = json.loads(path.read_bytes()) == identity
        except ValueError:
            same = False
        if not same:
            raise InputError(
                f"--out {out}: holds what another recipe or other files were made into; "
                "give another folder, or remove it."
            )
        return
    if out.exists() and any(out.iterdir()):
        raise InputError(f"--out {out}: is not empty and holds no preparation; give another one.")
    out.mkdir(parents=True, exist_ok=True)
    write_json(path, identity)


def _located(path: str, root: str) -> str:
    return path if "://" in path or path.startswith("/") else f"{root}/{path}"


def _matching(path: str, root: str) -> Sequence[tuple[str, int]]:
    """The files that a path, a pattern or a URL stands for, by name, with their sizes."""
    url = _located(path, root)
    if "://" not in url:
        found = sorted(Path("/").glob(str(Path(url).absolute()).lstrip("/")))
        return [(str(each), each.stat().st_size) for each in found if each.is_file()]
    try:
        file_system, remote = extra("fsspec").url_to_fs(url)
        names = sorted(file_system.glob(remote)) if "*" in remote else [remote]
        names = [name for name in names if file_system.exists(name)]
        return [
            (str(file_system.unstrip_protocol(name)), int(file_system.size(name) or 0))
            for name in names
        ]
    except InputError:
        raise
    except Exception as error:  # of as many kinds as there are protocols
        raise InputError(f"input {url}: cannot be reached: {error}.") from error
