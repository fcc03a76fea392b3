"""The figures of a run: one JSON object a step, the generated samples, TensorBoard's event files.

`metrics.jsonl` and `samples.jsonl` are the record; everything else that a person sees of a run
is drawn from them. They are only ever appended to, except that a run which resumes from its
checkpoint of step N first drops what lies after N, so that the history stays one line of steps.
"""

import json
import math
import os
import resource
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, SupportsFloat

from fugaku_jax.errors import InputError
from fugaku_jax.json_file import parse_json
from fugaku_jax.json_types import typed
from fugaku_jax.run.whole_file import replace_file

METRICS_FILE = "metrics.jsonl"
SAMPLES_FILE = "samples.jsonl"
REPORT_FILE = "report.html"
Figure = int | float | None


class MetricsWriter:
    """Appends a run's figures and samples to its directory; a context manager.

    One process of a run writes, the others have no writer.

    Args:
        run_dir: the run directory; made if it is not there.
        resume_step: the step of the checkpoint that the run continues from, 0 for a fresh start.
            Lines of later steps are dropped, each file in one atomic replacement, and TensorBoard
            is told to hide its events of those steps.

    Raises:
        InputError: a line before the last of a file in `run_dir` is no JSON object with a step.
    """

    def __init__(self, run_dir: Path, resume_step: int) -> None:
        run_dir.mkdir(parents=True, exist_ok=True)
        self._path = run_dir / METRICS_FILE
        there = [path for path in (self._path, run_dir / SAMPLES_FILE) if path.exists()]
        dropped = {path: drop_steps_after(path, resume_step) for path in there}
        self.dropped: list[dict[str, Any]] = dropped.get(self._path, [])
        """Figures of later steps, which are taken again."""
        self._metrics = self._path.open("ab")
        self._samples = (run_dir / SAMPLES_FILE).open("ab")
        self._tensorboard = _TensorBoard(run_dir / "tensorboard", resume_step, bool(there))

    def write(self, step: int, values: Mapping[str, SupportsFloat]) -> None:
        """Record the figures of one step, and hand the line to the operating system.

        Args:
            step: the step, counted from 1.
            values: figures by name; NumPy and JAX scalars are taken too. In the file a NaN or an
                infinity is `null`, the only spelling that every JSON reader takes.

        Raises:
            OSError: the disk is full, or the run directory is gone, in which a file that is open
                could be written all the same.
        """
        plain = {name: _plain_number(value) for name, value in values.items()}
        finite = {name: value for name, value in plain.items() if math.isfinite(value)}
        _append(self._metrics, {"step": step} | {name: finite.get(name) for name in plain})
        self._path.stat()
        self._tensorboard.add_scalars(finite, step)

    def sample(self, step: int, prompt: str, text: str) -> None:
        """Record `text`, which the model of `step` wrote after `prompt`."""
        _append(self._samples, {"step": step, "prompt": prompt, "text": text})
        self._tensorboard.add_text(f"sample/{prompt[:40]}", f"{prompt} → {text}", step)

    def close(self) -> None:
        """Close the files; a second call does nothing."""
        self._metrics.close()
        self._samples.close()
        self._tensorboard.close()

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def read_metrics(run_dir: Path) -> list[dict[str, float | int]]:
    """The figures of a run, one dict a step in the order written; `null` comes back as NaN.

    A last line that a crash, or a writer at work, left unfinished is passed over.

    Raises:
        InputError: there is no such file, a line before the last is no JSON object with a step, or
            a figure is no number.
    """
    path = run_dir / METRICS_FILE
    found = []
    for line in _lines(path):
        where = f"{path}: step {line['step']}: "
        figures = {name: typed(Figure, value, f"{where}{name}") for name, value in line.items()}
        found.append({name: math.nan if x is None else x for name, x in figures.items()})
    return found


def read_samples(run_dir: Path) -> list[dict[str, Any]]:
    """The generated samples of a run, `{step, prompt, text}` each; none if no file is there.

    Raises:
        InputError: a line before the last is no JSON object with a step.
    """
    path = run_dir / SAMPLES_FILE
    return list(_lines(path)) if path.exists() else []


def drop_steps_after(path: Path, step: int) -> list[dict[str, Any]]:
    """Drop the lines of later steps from figures or samples, and return them."""
    lines = list(_lines(path))
    kept = [line for line in lines if line["step"] <= step]
    replace_file(path, lambda file: file.writelines(map(_encode, kept)))
    return [line for line in lines if line["step"] > step]


def is_drawn(run_dir: Path) -> bool:
    """Tell whether the report of a run shows the last of its figures."""
    report, figures = run_dir / REPORT_FILE, run_dir / METRICS_FILE
    return not figures.exists() or (
        report.exists() and report.stat().st_mtime >= figures.stat().st_mtime
    )


def peak_memory_bytes() -> int:
    """The most memory that this process has held resident since it started, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux KiB


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    try:
        raw = path.read_bytes().splitlines()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from None
    for number, line in enumerate(raw, start=1):
        try:
            value = parse_json(line, "a line")
        except InputError:
            value = {}
        if type(value.get("step")) is int and abs(value["step"]) < 2**63:
            yield value
        elif number < len(raw):
            raise InputError(
                f"{path}, line {number}, is {line[:40].decode(errors='replace')!r}, but it must be "
                f"a JSON object with a whole number `step`; take the line out."
            )


def _append(file: Any, line: dict[str, Any]) -> None:
    file.write(_encode(line))
    file.flush()


def _encode(line: dict[str, Any]) -> bytes:
    return (json.dumps(line, ensure_ascii=False) + "\n").encode(errors="replace")


def _plain_number(value: Any) -> float | int:
    value = value.item() if hasattr(value, "item") else value  # NumPy's and JAX's scalars
    return int(value) if isinstance(value, int) else float(value)


class _TensorBoard:
    """Event files by tensorboardX, one event a step: an event a value costs several times more."""

    def __init__(self, directory: Path, resume_step: int, continued: bool) -> None:
        # tensorboardX imports torch where it finds it, which a run does not need: 3 s and 210 MB.
        hide_torch = "torch" not in sys.modules
        if hide_torch:
            sys.modules["torch"] = None  # type: ignore[assignment]  # Python's way to say: none
        try:
            from tensorboardX import SummaryWriter
            from tensorboardX.proto import summary_pb2
        finally:
            if hide_torch:
                del sys.modules["torch"]
        self._messages: Any = summary_pb2  # generated code, whose names type checkers cannot see
        self._writer = SummaryWriter(
            str(directory),
            purge_step=resume_step + 1 if continued else None,
            # Event files are named by the second: a quick restart must not write into the last.
            filename_suffix=f".{os.getpid()}.{resume_step}",
        )

    def add_scalars(self, values: Mapping[str, float | int], step: int) -> None:
        value = self._messages.Summary.Value
        scalars = [value(tag=name, simple_value=number) for name, number in values.items()]
        if self._writer.file_writer is not None:  # it is None once closed
            self._writer.file_writer.add_summary(self._messages.Summary(value=scalars), step)

    def add_text(self, name: str, text: str, step: int) -> None:
        # Four spaces: TensorBoard reads Markdown, and a model's text is none.
        self._writer.add_text(name, "    " + text.replace("\n", "\n    "), step)

    def close(self) -> None:
        self._writer.close()
