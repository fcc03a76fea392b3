"""One page about a run, or about several side by side, that a browser shows without a network.

Everything in it comes from the files of the run directories, so it can be drawn at any time, also
while a run goes on, and the same files give the same page.
"""

import contextlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from jaxtyping import Float
from markupsafe import Markup

from fugaku_jax.config import config_from_dict
from fugaku_jax.errors import InputError
from fugaku_jax.json_file import read_json
from fugaku_jax.models.size import parameter_count
from fugaku_jax.report import curves
from fugaku_jax.report.curves import Series
from fugaku_jax.run.configuration import CONFIG_FILE
from fugaku_jax.run.metrics import (
    METRICS_FILE,
    read_metrics,
    read_samples,
    replace_file,
)
from fugaku_jax.spelling import amount, duration, printable

_LAST_STEPS = 20  # whose mean is called the final training loss
_SAMPLES = 8  # of one prompt that are shown: the first, the last, and some between


@dataclass(frozen=True)
class Run:
    """What a run directory says, read into memory."""

    name: str
    """Shortest end of the directory's path that tells it from the others of a page."""
    config: dict[str, Any]
    """`config.json`, nested."""
    metrics: list[dict[str, float | int]]
    """One dict a step."""
    samples: list[dict[str, Any]]
    """`{step, prompt, text}` each."""

    def column(self, name: str) -> Float[np.ndarray, " N"]:
        """One figure of every step, NaN where it has none."""
        return np.array([line.get(name, np.nan) for line in self.metrics], dtype=float)


def read_runs(run_dirs: Sequence[Path]) -> list[Run]:
    """Read run directories.

    Raises:
        InputError: none is given, one is given twice, one is no run directory, or a run has not
            finished a step yet.
    """
    if not run_dirs:
        raise InputError("No run is given; give at least one run directory.")
    paths = [path.resolve() for path in run_dirs]
    for path in paths:
        if paths.count(path) > 1:
            raise InputError(f"{path} is given twice; give each run once.")
    return [
        _read_run(given, name) for given, name in zip(run_dirs, _short_names(paths), strict=True)
    ]


def write_report(runs: Sequence[Path], out: Path) -> Path:
    """Draw the page of one run, or the comparison of several.

    Args:
        runs: run directories.
        out: the HTML file to write; replaced whole if it is there.

    Returns:
        `out`.

    Raises:
        InputError: as `read_runs`; or `out` cannot be written.
    """
    page = _template().render(_page(read_runs(runs)))
    _write(out, page.encode(errors="replace"))
    return out


def write_picture(runs: Sequence[Path], out: Path) -> Path:
    """Draw the loss curve alone, with validation points, for a README or a slide.

    Args:
        runs: run directories.
        out: the file to write; `.svg` follows the reader's light or dark scheme, `.png` is light.

    Returns:
        `out`.

    Raises:
        InputError: as `read_runs`; or `out` has another ending or cannot be written.
    """
    read = read_runs(runs)
    if out.suffix not in (".svg", ".png"):
        raise InputError(f"{out} is no name of a picture; let it end in .svg or .png.")
    drawn = curves.draw(
        _loss(read, "step"),
        "step",
        "loss, nats/token",
        size=(8.0, 3.6),
        legend=True,
        dots_per_inch=160,
        format="png" if out.suffix == ".png" else "svg",
    )
    _write(out, drawn if out.suffix == ".png" else curves.standalone(drawn))
    return out


def _read_run(path: Path, name: str) -> Run:
    config_file = path / CONFIG_FILE
    if not config_file.is_file():
        raise InputError(
            f"{path} is no run directory, for it has no {CONFIG_FILE}; give the directory that "
            f"launch/train.py made."
        )
    config = read_json(config_file)
    metrics = read_metrics(path) if (path / METRICS_FILE).exists() else []
    if not metrics:
        raise InputError(f"{path} has no step in {METRICS_FILE} yet; wait for its first step.")
    return Run(name, config, metrics, read_samples(path))


def _short_names(paths: Sequence[Path]) -> list[str]:
    parts, names = 1, [path.name for path in paths]
    while len(set(names)) < len(names):
        parts += 1
        names = ["/".join(path.parts[-parts:]) for path in paths]
    return names


def _write(out: Path, data: bytes) -> None:
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        replace_file(out, lambda file: file.write(data))
    except OSError as error:
        raise InputError(f"{out} cannot be written: {error.strerror}.") from None


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["language"] = _language
    file = resources.files("fugaku_jax.report") / "report.html.jinja"
    return environment.from_string(file.read_text(encoding="utf-8"))


def _page(runs: list[Run]) -> dict[str, Any]:
    fields = [_flat(run.config) for run in runs]
    names = list(dict.fromkeys(name for field in fields for name in field))
    return {
        "runs": runs,
        "colours": [light for light, _ in curves.LIGHT_AND_DARK],
        "dark_colours": [dark for _, dark in curves.LIGHT_AND_DARK],
        "dark_style": Markup(curves.dark_style()),
        "summary": _table([_summary(run) for run in runs]),
        "domains": _table([_domains(run) for run in runs]),
        "charts": [
            {"title": title, "svg": Markup(curves.inline(svg, title))}
            for title, svg in _charts(runs)
        ],
        "samples": [_samples_by_prompt(run) for run in runs],
        "fields": fields,
        "differing": [
            (name, values)
            for name in names
            if len(set(values := [field.get(name, "—") for field in fields])) > 1
        ],
    }


def _table(columns: list[dict[str, str]]) -> list[tuple[str, list[str]]]:
    """Rows of name and one value a run, in the order in which the names first come."""
    names = dict.fromkeys(name for column in columns for name in column)
    return [(name, [column.get(name, "—") for column in columns]) for name in names]


def _summary(run: Run) -> dict[str, str]:
    """What a person wants to know first, by name; what a run does not say is left out."""
    rows: dict[str, str] = {}
    training = run.config.get("training")
    planned = training.get("steps") if isinstance(training, dict) else None
    done = run.metrics[-1]["step"]
    unfinished = isinstance(planned, int) and done < planned
    with contextlib.suppress(InputError):  # a run of another version has other fields
        rows["Parameters"] = f"{parameter_count(config_from_dict(run.config).model):,}"
    rows["Steps"] = f"{done:,} of {planned:,}" if unfinished else f"{done:,}"
    rows["Tokens"] = _last(run, "tokens", amount)
    loss = _known(run, "loss")[-_LAST_STEPS:]
    rows[f"Training loss, last {len(loss)} steps"] = f"{loss.mean():.4f}" if len(loss) else ""
    rows["Validation loss, nats/token"] = _last(run, "validation_loss", "{:.4f}".format)
    rows["Validation bits/byte"] = _last(run, "validation_bits_per_byte", "{:.4f}".format)
    speed, used = _known(run, "tokens_per_second"), _known(run, "mfu")
    rows["Tokens/s, median"] = f"{np.median(speed):,.0f}" if len(speed) else ""
    rows["Model FLOPs used, median"] = f"{np.median(used):.1%}" if len(used) else ""
    seconds, memory = _known(run, "step_seconds"), _known(run, "memory_bytes")
    rows["Time in steps"] = duration(seconds.sum()) if len(seconds) else ""
    rows["Peak memory"] = f"{memory.max() / 2**30:.2f} GiB" if len(memory) else ""
    skipped = _known(run, "skipped").sum()
    rows["Steps skipped"] = f"{skipped:,.0f}" if skipped else ""
    return {name: value for name, value in rows.items() if value}


def _domains(run: Run) -> dict[str, str]:
    """The figures of every domain at its last validation, by name and unit."""
    names = sorted(
        {name for line in run.metrics for name in line if name.startswith("validation/")}
    )
    units = {"loss": "nats/token", "bits_per_byte": "bits/byte"}
    return {
        f"{domain}, {units.get(figure, figure)}": _last(run, name, "{:.4f}".format)
        for name in names
        for domain, figure in [name.removeprefix("validation/").rsplit("/", 1)]
    }


def _known(run: Run, name: str) -> Float[np.ndarray, " n"]:
    values = run.column(name)
    return values[np.isfinite(values)]


def _last(run: Run, name: str, spell) -> str:
    values = _known(run, name)
    return spell(values[-1]) if len(values) else ""


def _charts(runs: list[Run]) -> Iterable[tuple[str, bytes]]:
    yield "Loss by step", curves.draw(_loss(runs, "step"), "step", "nats/token")
    if any(len(_known(run, "tokens")) for run in runs):
        yield "Loss by tokens", curves.draw(_loss(runs, "tokens"), "tokens", "nats/token")
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


def _loss(runs: list[Run], by: str) -> list[Series]:
    return _lines(runs, "loss", by, smooth=True) + _validation(runs, "validation_loss", by)


def _lines(runs: list[Run], name: str, by: str = "step", *, smooth: bool = False) -> list[Series]:
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


def _validation(runs: list[Run], name: str, by: str) -> list[Series]:
    """Points, which have a colour of their own in one run's page and the run's among several."""
    columns = [(run.column(by), run.column(name)) for run in runs]
    return [
        Series(x, y, 1, "points", "validation") if len(runs) == 1 else Series(x, y, index, "points")
        for index, (x, y) in enumerate(columns)
        if np.isfinite(y).any()
    ]


def _samples_by_prompt(run: Run) -> list[tuple[str, list[dict[str, Any]], int]]:
    """For every prompt its samples over the run, thinned, and how many there are in all."""
    prompts: dict[str, list[dict[str, Any]]] = {}
    for sample in run.samples:
        prompt, text = (printable(str(sample.get(key, ""))) for key in ("prompt", "text"))
        prompts.setdefault(prompt, []).append({"step": sample["step"], "text": text})
    return [
        (prompt, [all_[i] for i in _spread(len(all_), _SAMPLES)], len(all_))
        for prompt, all_ in prompts.items()
    ]


def _spread(n: int, most: int) -> list[int]:
    return sorted({round(i) for i in np.linspace(0, n - 1, min(n, most))})


def _flat(config: dict[str, Any], prefix: str = "") -> dict[str, str]:
    fields: dict[str, str] = {}
    for name, value in config.items():
        if isinstance(value, dict) and value:
            fields |= _flat(value, f"{prefix}{name}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            fields[f"{prefix}{name}"] = printable(text)
    return fields


def _language(text: str) -> str:
    """`ja` if the text holds kana or kanji: a browser then picks Japanese, not Chinese, glyphs."""
    return "ja" if re.search("[\u3040-\u30ff\u3400-\u9fff]", text) else ""
