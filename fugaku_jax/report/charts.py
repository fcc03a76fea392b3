"""The charts of a report: which figures of runs are drawn, and how."""

from collections.abc import Iterator, Sequence

import numpy as np

from fugaku_jax.report import curves
from fugaku_jax.report.curves import Series
from fugaku_jax.report.runs import Run


def charts(runs: Sequence[Run]) -> Iterator[tuple[str, bytes]]:
    """Yield the title and the drawing of each chart that the runs have figures for."""
    yield "Loss by step", curves.draw(loss(runs, "step"), "step", "nats/token")
    if any(len(run.known("tokens")) for run in runs):
        yield "Loss by tokens", curves.draw(loss(runs, "tokens"), "tokens", "nats/token")
    if bits := _validation(runs, "validation_bits_per_byte", "step"):
        yield "Validation bits/byte", curves.draw(bits, "step", "bits/byte")
    others: tuple[tuple[str, str, str, curves.Scale], ...] = (
        ("Throughput", "tokens_per_second", "tokens/s", "from zero"),
        ("Learning rate", "learning_rate", "learning rate", "from zero"),
        ("Gradient norm", "grad_norm", "global norm", "log"),
        ("Loss scale", "loss_scale", "loss scale", "log2"),
    )
    for title, name, unit, scale in others:
        lines = _lines(runs, name, smooth=name in ("tokens_per_second", "grad_norm"))
        if lines:
            yield title, curves.draw(lines, "step", unit, scale=scale)


def loss(runs: Sequence[Run], by: str) -> list[Series]:
    """Return the curves of loss and validation loss by `step` or by `tokens`."""
    return _lines(runs, "loss", by, smooth=True) + _validation(runs, "validation_loss", by)


def _lines(
    runs: Sequence[Run], name: str, by: str = "step", *, smooth: bool = False
) -> list[Series]:
    """A line a run; a smoothed one of a run that is alone has its every step behind it."""
    series = []
    for index, run in enumerate(runs):
        x, y = run.column(by), run.column(name)
        if not np.isfinite(y).any():
            continue
        if smooth and len(runs) == 1:
            series.append(Series(x, y, index, "faint"))
        label = run.name if len(runs) > 1 else "training"
        series.append(Series(x, curves.smoothed(y) if smooth else y, index, "line", label))
    return series


def _validation(runs: Sequence[Run], name: str, by: str) -> list[Series]:
    """Points, which have a colour of their own in one run's page and the run's among several."""
    columns = [(run.column(by), run.column(name)) for run in runs]
    return [
        Series(x, y, 1, "points", "validation") if len(runs) == 1 else Series(x, y, index, "points")
        for index, (x, y) in enumerate(columns)
        if np.isfinite(y).any()
    ]
