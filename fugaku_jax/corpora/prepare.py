"""Prepares a corpus: all phases, then the mixture and the report, then the work is removed."""

import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fugaku_jax.corpora.batch_jobs import Progress
from fugaku_jax.corpora.engines import Engine, run_locally, run_on_cluster
from fugaku_jax.corpora.plan import CorpusPlan
from fugaku_jax.corpora.report import corpus_report, corpus_timings
from fugaku_jax.json_file import read_json
from fugaku_jax.run.whole_file import replace_file, write_json


def prepare(
    plan: CorpusPlan,
    engine: Engine,
    workers: int,
    options: Mapping[str, Any],
    command: Sequence[str],
    progress: Progress,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Run what is missing of a preparation.

    Args:
        plan: what is prepared.
        engine: `local`, or what `run_on_cluster` takes.
        workers: tasks at once.
        options: further arguments of the executor.
        command: the program that does a task when told `--phase` and `--rank`.
        progress: is told of tasks that are done.

    Returns:
        its report, which is the same whoever ran it, and its timings.

    Raises:
        InputError: as the tasks do.
    """
    if not plan.output("report.json").exists():
        begin = time.perf_counter()
        if engine == "local":
            run_locally(plan, workers, progress)
        else:
            run_on_cluster(plan, engine, workers, options, command, progress)
        finish(plan, workers, time.perf_counter() - begin)
    return tuple(read_json(plan.output(f"{name}.json")) for name in ("report", "timings"))  # type: ignore[return-value]


def finish(plan: CorpusPlan, workers: int, seconds: float) -> None:
    """Write mixture, timings and report, in this order, and remove the work."""
    for left in Path(plan.out).rglob(".*.partial"):  # by a task that was killed as it wrote
        left.unlink()
    report = corpus_report(plan)
    data = _mixture(plan, report).encode()
    replace_file(plan.output("mixture.toml"), lambda file: file.write(data))
    write_json(plan.output("timings.json"), corpus_timings(plan, workers, seconds))
    write_json(plan.output("report.json"), report)
    shutil.rmtree(plan.work())


def _mixture(plan: CorpusPlan, report: Mapping[str, Any]) -> str:
    """The mixture file, as docs/data.md says it, of the sets of which something is left."""
    tables, kept = [], {each["name"]: each["kept"].get("documents", 0) for each in report["inputs"]}
    paths: dict[str, list[str]] = {}
    for task in range(len(plan.parts)):
        name = plan.input_of(task).name
        path = plan.output("documents", f"{name}-{task:06d}.jsonl.zst")
        if path.exists():
            paths.setdefault(name, []).append(f"documents/{path.name}")
    for each in plan.recipe.inputs:
        if not kept.get(each.name):
            continue
        lines = ["[[input]]", f'name = "{each.name}"', f"domain = {_quoted(each.domain)}"]
        if each.weight is not None:
            lines.append(f"weight = {each.weight * _share_kept(plan, each.domain, kept)!r}")
        lines += ["paths = [", *(f'    "{path}",' for path in paths[each.name]), "]"]
        tables.append("\n".join(lines) + "\n")
    return "\n".join(tables)


def _share_kept(plan: CorpusPlan, domain: str, kept: Mapping[str, int]) -> float:
    """By what weights of a domain grow, so that it keeps its share without absent sets."""
    if not plan.recipe.keep_domain_shares:
        return 1.0
    sets = [each for each in plan.recipe.inputs if each.domain == domain]
    present = sum(each.weight or 0 for each in sets if kept.get(each.name))
    return sum(each.weight or 0 for each in sets) / present if present else 1.0


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
