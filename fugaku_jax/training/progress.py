"""The line a person watches while a run goes on, and the log that stays of it.

On a terminal the line is redrawn in place; in a batch job's output, where that would leave control
codes, a plain line is printed every so often. Either way `log.txt` in the run directory gets the
plain lines, each with the time at which it was written.
"""

import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, SupportsFloat

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar
from rich.text import Text

from fugaku_jax.spelling import amount, duration, printable

_FIRST_STEPS = 3  # that each get a plain line: a person wants to see that it moves
_QUIET_SECONDS = 10.0  # between plain lines after those
_RECENT_STEPS = 200  # over which the time left is reckoned


class Progress:
    """Shows how far a run has come; a context manager.

    Args:
        run_dir: the run directory, in which `log.txt` is appended to; made if it is not there.
        first_step: the step that comes next, 1 for a fresh start.
        last_step: the step at which the run is complete.
        stream: a text stream to print to; standard output if not given.
        clock: seconds, for the pace and the time left; never goes back.
    """

    def __init__(
        self,
        run_dir: Path,
        first_step: int,
        last_step: int,
        *,
        stream: Any = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        run_dir.mkdir(parents=True, exist_ok=True)
        self._log = (run_dir / "log.txt").open("a", encoding="utf-8", errors="replace")
        self._stream = stream or sys.stdout
        self._clock = clock
        self._first_step, self._last_step = first_step, last_step
        self._times: deque[float] = deque(maxlen=_RECENT_STEPS)  # at the end of recent steps
        self._quiet_since = clock()
        console = Console(file=self._stream, highlight=False)
        # rich takes a file for a terminal where FORCE_COLOR is set; a log must stay plain.
        redrawn = self._stream.isatty() and console.is_terminal and not console.is_dumb_terminal
        self._bar = _bar(console, first_step - 1, last_step) if redrawn else None

    def step(self, step: int, metrics: Mapping[str, SupportsFloat]) -> None:
        """Show that `step` is done.

        Args:
            step: the step, counted from 1.
            metrics: its figures as `MetricsWriter.write` takes them; `loss`, `tokens_per_second`,
                in fp16 `loss_scale`, and the results of a validation are shown; a step that was
                `skipped` always gets a line.
        """
        now = self._clock()
        self._times.append(now)
        position = _position(step, self._last_step)
        figures = {name: float(value) for name, value in metrics.items()}
        status = f"{_status(figures)} · {self._time_left(step)}"
        if self._bar:
            self._bar.update(self._bar.task_ids[0], completed=step, status=status)
        early = step < self._first_step + _FIRST_STEPS
        skipped = bool(figures.get("skipped"))
        time_to_print = early or now - self._quiet_since >= _QUIET_SECONDS
        if time_to_print or step == self._last_step or skipped:
            self._quiet_since = now
            self._write(f"{position}  {status}", show=self._bar is None or skipped)
        if "validation_loss" in figures:
            self.say(f"{position}  {_validation(figures)}")

    def sample(self, step: int, prompt: str, text: str) -> None:
        """Show `text`, which the model of `step` wrote after `prompt`."""
        self.say(f"{_position(step, self._last_step)}  sample: {prompt} → {text}")

    def say(self, text: str) -> None:
        """Print `text` above the progress line and log it; it may hold any characters."""
        self._write(text, show=True)

    def close(self) -> None:
        """Leave the progress line as it is and close the log; a second call does nothing."""
        if self._bar:
            self._bar.stop()
        self._log.close()

    def __enter__(self) -> "Progress":
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _write(self, text: str, show: bool) -> None:
        lines = printable(text).split("\n")
        self._log.write(f"{datetime.now():%Y-%m-%d %H:%M:%S}  " + "\n    ".join(lines) + "\n")
        self._log.flush()
        if not show:
            return
        # A batch job may run with an ASCII locale; a sample in Japanese must not end it.
        encoding = self._stream.encoding or "utf-8"
        shown = "\n    ".join(lines).encode(encoding, "replace").decode(encoding)
        if self._bar:
            self._bar.console.print(Text(shown))
        else:
            print(shown, file=self._stream, flush=True)

    def _time_left(self, step: int) -> str:
        if step >= self._last_step:
            return "done"
        if len(self._times) < 2:  # the first step's own time is mostly compilation
            return "– left"
        pace = (self._times[-1] - self._times[0]) / (len(self._times) - 1)
        return f"{duration(pace * (self._last_step - step))} left"


def _bar(console: Console, completed: int, total: int) -> Bar:
    bar = Bar(
        TextColumn("step {task.completed:,.0f}/{task.total:,.0f}"),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[status]}", markup=False),
        console=console,
        expand=True,
        refresh_per_second=4,  # people read no faster, and the cores are for the training
    )
    bar.add_task("", completed=completed, total=total, status="compiling the step …")
    return bar


def _position(step: int, last_step: int) -> str:
    return f"step {step:>{len(str(last_step))}}/{last_step}"


def _status(metrics: Mapping[str, float]) -> str:
    parts = []
    if "loss" in metrics:
        parts.append(f"loss {metrics['loss']:.4f}")
    if "tokens_per_second" in metrics:
        parts.append(f"{amount(metrics['tokens_per_second'])} tokens/s")
    if "loss_scale" in metrics:
        parts.append(f"scale {metrics['loss_scale']:g}")
    if metrics.get("skipped"):
        parts.append("step skipped")
    return " · ".join(parts)


def _validation(metrics: Mapping[str, float]) -> str:
    if "validation_accuracy" in metrics:
        loss, right = metrics["validation_loss"], metrics["validation_accuracy"]
        return f"validation loss {loss:.4f} nats/pair, {right:.1%} of pairs told apart rightly"
    text = f"validation loss {metrics['validation_loss']:.4f} nats/token"
    if "validation_bits_per_byte" in metrics:
        text += f", {metrics['validation_bits_per_byte']:.4f} bits/byte"
    prefix, suffix = "validation/", "/bits_per_byte"
    domains = [
        f"{name[len(prefix) : -len(suffix)]} {value:.4f}"
        for name, value in metrics.items()
        if name.startswith(prefix) and name.endswith(suffix)
    ]
    return f"{text} ({', '.join(domains)})" if domains else text
