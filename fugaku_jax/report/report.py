"""One page about a run, or about several side by side, that a browser shows without a network.

Everything in it comes from the files of the run directories, so it can be drawn at any time, also
while a run goes on, and the same files give the same page.
"""

import contextlib
import dataclasses
import json
import re
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from fugaku_jax.config import config_from_dict
from fugaku_jax.errors import InputError
from fugaku_jax.models.size import parameter_count
from fugaku_jax.report import curves
from fugaku_jax.report.charts import charts, loss
from fugaku_jax.report.runs import Run, read_runs
from fugaku_jax.run.sessions import time_of_sessions
from fugaku_jax.run.whole_file import replace_file
from fugaku_jax.spelling import amount, duration, printable

_LAST_STEPS = 20  # whose mean is called the final training loss
_SAMPLES = 8  # of one prompt that are shown: the first, the last, and some between


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
        loss(read, "step"),
        "step",
        "loss, nats/token",
        size=(8.0, 3.6),
        legend=True,
        dots_per_inch=160,
        format="png" if out.suffix == ".png" else "svg",
    )
    _write(out, drawn if out.suffix == ".png" else curves.standalone(drawn))
    return out


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
    fields = [_flat(run.config) | _data(run.ledger) for run in runs]
    names = list(dict.fromkeys(name for field in fields for name in field))
    return {
        "runs": runs,
        "colours": [light for light, _ in curves.LIGHT_AND_DARK],
        "dark_colours": [dark for _, dark in curves.LIGHT_AND_DARK],
        "dark_style": Markup(curves.dark_style()),
        "summary": _table([_summary(run) for run in runs]),
        "scores": _table([_scores(run) for run in runs]),
        "domains": _table([_domains(run) for run in runs]),
        "charts": [
            {"title": title, "svg": Markup(curves.inline(svg, title))}
            for title, svg in charts(runs)
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
    newest = run.known("loss")[-_LAST_STEPS:]
    rows[f"Training loss, last {len(newest)} steps"] = f"{newest.mean():.4f}" if len(newest) else ""
    rows["Validation loss, nats/token"] = _last(run, "validation_loss", "{:.4f}".format)
    rows["Validation bits/byte"] = _last(run, "validation_bits_per_byte", "{:.4f}".format)
    speed, used = run.known("tokens_per_second"), run.known("mfu")
    rows["Tokens/s, median"] = f"{np.median(speed):,.0f}" if len(speed) else ""
    rows["Model FLOPs used, median"] = f"{np.median(used):.1%}" if len(used) else ""
    seconds, memory = run.known("step_seconds"), run.known("memory_bytes")
    rows["Time in steps"] = duration(seconds.sum()) if len(seconds) else ""
    rows["Peak memory"] = f"{memory.max() / 2**30:.2f} GiB" if len(memory) else ""
    skipped = run.known("skipped").sum()
    rows["Steps skipped"] = f"{skipped:,.0f}" if skipped else ""
    rows["Goodput"], rows["The rest of the time"] = _goodput(run)
    rows["Slow processes"] = ", ".join(run.slow_processes)
    return {name: value for name, value in rows.items() if value}


def _goodput(run: Run) -> tuple[str, str]:
    """The share of all sessions' time in steps that led further, and what took the rest."""
    seconds, repeated = time_of_sessions(run.sessions)
    if not seconds.total:  # a run of a version that did not write it down
        return "", ""
    parts = dataclasses.asdict(seconds) | {"repeated steps": repeated}
    useful = parts.pop("steps") - repeated
    rest = sorted(parts.items(), key=lambda part: -part[1])
    shares = ((name, value / seconds.total) for name, value in rest)
    return (
        f"{useful / seconds.total:.1%} of {duration(seconds.total)}",
        ", ".join(f"{name} {share:.1%}" for name, share in shares if share >= 0.0005),
    )


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


def _scores(run: Run) -> dict[str, str]:
    """The figures of every task that was graded, with their standard errors."""
    return {
        f"{each.task}, {each.metric}": f"{each.spelled()}, step {grading.step:,}"
        for grading in run.gradings
        for each in grading.scores
    }


def _last(run: Run, name: str, spell: Callable[[float], str]) -> str:
    values = run.known(name)
    return spell(values[-1]) if len(values) else ""


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


def _data(ledger: dict[str, Any]) -> dict[str, str]:
    """The roots of what a run reads, and the parameters of the order, by name."""
    order, sets = ledger.get("order"), ledger.get("sets")
    rows = {"store_sha256": ledger.get("store_sha256")}
    rows |= {"order": order} if isinstance(order, dict) else {}
    rows["passed_over"] = ledger.get("passed_over")
    for each in sets if isinstance(sets, list) else ():
        if isinstance(each, dict):
            roots = {name: value for name, value in each.items() if name.endswith("_root")}
            rows[f"sets.{each.get('name')}"] = roots
    return _flat({name: value for name, value in rows.items() if value}, "ledger.")


def _language(text: str) -> str:
    """`ja` if the text holds kana or kanji: a browser then picks Japanese, not Chinese, glyphs."""
    return "ja" if re.search("[\u3040-\u30ff\u3400-\u9fff]", text) else ""
