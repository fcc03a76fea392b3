"""Tasks of lm-evaluation-harness done by our model and by the harness's own `hf`, in one process.

Both have the same weights, ours from a run and theirs from its export. They take turns, round by
round, and the first round, which compiles, is not timed; every answer is compared. Ours may also be
asked for one text at a time.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fugaku_jax.benchmarks.processes import require
from fugaku_jax.interop.hf import export_run
from fugaku_jax.interop.load import load_for_inference
from fugaku_jax.run.configuration import read_config
from fugaku_jax.run.identity import open_run_store

_BATCH = 16
"""Requests that `hf` computes at once; we choose ours by their length."""


def run(
    run_dir: Path,
    tasks: Sequence[str],
    data: Path | None = None,
    limit: int | None = 100,
    rounds: int = 2,
    alone: bool = False,
    say: Callable[[str], object] = lambda _: None,
) -> dict[str, Any]:
    """Compare figures, answers and time.

    Args:
        run_dir: a run; its newest checkpoint is taken, in fp32.
        tasks: as `tasks_of` takes them.
        data: directory of the data of task files.
        limit: most items of a task.
        rounds: timed rounds of each contender.
        alone: whether texts are also continued one at a time.
        say: is told what was measured as it goes.

    Returns:
        `tasks`, a row for each: `contender` (its name), `items`, `figures_ours` and
        `figures_theirs` by name, `figures_apart` (the largest difference of two), `nats_apart`
        (likewise of two log-likelihoods), `texts_differing`, `ours_seconds` and `theirs_seconds`
        (medians), and `ratio` of the latter by the former; if asked for, `alone_seconds`,
        `alone_ratio` by ours, and `alone_differing`, texts that are not ours.

    Raises:
        InputError: something is not installed, or the run or a task cannot be read.
    """
    require("torch", "transformers", "lm_eval")
    from lm_eval.models.huggingface import HFLM

    from fugaku_jax.evaluation.harness_model import HarnessModel
    from fugaku_jax.evaluation.harness_tasks import tasks_of

    loaded = load_for_inference(run_dir, "float32")
    given = loaded.model, loaded.tokenizer, loaded.first_token, "float32"
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "hf"
        export_run(
            run_dir, out, open_run_store(run_dir, read_config(run_dir), None), "float32", 1 << 30
        )
        theirs = HFLM(str(out), device="cpu", dtype="float32", batch_size=_BATCH)
    contenders: dict[str, Any] = {"ours": HarnessModel(*given), "theirs": theirs}
    contenders |= {"alone": HarnessModel(*given, slots=1)} if alone else {}
    rows = []
    for wanted in [each for name in tasks for each in tasks_of(name, data)]:
        seconds: dict[str, list[float]] = {name: [] for name in contenders}
        found: dict[str, Any] = {}
        for number in range(rounds + 1):
            for name in list(contenders)[:: -1 if number % 2 else 1]:
                found[name], taken = _timed(contenders[name], wanted, limit)
                seconds[name] += [taken] if number else []
                say(f"{name}, round {number}: {taken:.1f} s")
        rows.append(_row(found, {name: statistics.median(each) for name, each in seconds.items()}))
    return {"tasks": rows}


def _timed(model: Any, wanted: str | dict[str, Any], limit: int | None) -> tuple[Any, float]:
    """Return what the harness found, and the seconds it took, the reading of the task included."""
    from fugaku_jax.evaluation.harness import ask_tasks

    start = time.perf_counter()
    _, found = ask_tasks(model, [wanted], limit)
    return found, time.perf_counter() - start


def _row(found: dict[str, Any], seconds: dict[str, float]) -> dict[str, Any]:
    (task,) = found["ours"]["samples"]
    samples = {name: each["samples"][task] for name, each in found.items()}
    apart, differing = _compared(samples["ours"], samples["theirs"])
    figures = {
        f"figures_{name}": {
            metric: value
            for metric, value in found[name]["results"][task].items()
            if isinstance(value, float) and "_stderr" not in metric
        }
        for name in ("ours", "theirs")
    }
    items = len({each["doc_id"] for each in samples["ours"]})
    times = {f"{name}_seconds": value for name, value in seconds.items()}
    times["ratio"] = seconds["theirs"] / seconds["ours"]
    pairs = zip(figures["figures_ours"].values(), figures["figures_theirs"].values(), strict=True)
    worst = max((abs(mine - other) for mine, other in pairs), default=0.0)
    compared = {"figures_apart": worst, "nats_apart": apart, "texts_differing": differing}
    if "alone" in found:
        times["alone_ratio"] = seconds["alone"] / seconds["ours"]
        _, compared["alone_differing"] = _compared(samples["ours"], samples["alone"])
    return {"contender": task, "items": items, **figures, **compared, **times}


def _compared(mine: Sequence[Any], others: Sequence[Any]) -> tuple[float, int]:
    """Return how far log-likelihoods are apart at most, and how many texts differ."""
    apart, differing = 0.0, 0
    for sample, other in zip(mine, others, strict=True):
        for one, two in zip(_answers(sample), _answers(other), strict=True):
            if isinstance(one, str):  # transformers leaves a first space out where it decodes
                differing += one.lstrip(" ") != two.lstrip(" ")
            else:
                apart = max(apart, abs(one - two))
    return apart, differing


def _answers(sample: dict[str, Any]) -> list[Any]:
    """Return a sample's texts, or its log-likelihoods."""
    answers = [first for (first, *_) in sample["resps"]]
    return [each[0] if isinstance(each, list | tuple) else each for each in answers]
