"""What became of the documents of a corpus, as numbers and as tables for a terminal."""

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE
from rich.table import Table
from rich.text import Text

from fugaku_jax.corpora.decisions import read_decisions
from fugaku_jax.corpora.plan import CorpusPlan
from fugaku_jax.json_file import read_json

STAGES = (
    *("normalise", "language", "quality", "contamination", "personal data"),
    *("duplicates", "near-duplicates"),
)


def corpus_report(plan: CorpusPlan) -> dict[str, Any]:
    """Count what became of the documents of each input; the same for every number of workers."""
    counts = {each.name: Counter[str]() for each in plan.recipe.inputs}
    kept = {each.name: Counter[str]() for each in plan.recipe.inputs}
    stages = {each.name: Counter[str]() for each in plan.recipe.inputs}
    reasons: Counter[str] = Counter()
    for task in range(len(plan.parts)):
        name = plan.input_of(task).name
        counts[name] += Counter(read_json(plan.mark("clean", task))["counts"])
        kept[name] += Counter(read_json(plan.mark("write", task))["kept"])
        for row in read_decisions(plan.output("decisions", f"{name}-{task:06d}.parquet")):
            stages[name][f"{row.stage}: {row.action}"] += 1
            reasons[f"{row.action} by {row.stage}: {_kind(row.reason)}"] += 1
    present = {file.input for file in plan.files}
    inputs = [
        {
            "name": each.name,
            "domain": each.domain,
            "present": index in present,
            "in": dict(counts[each.name]),
            "decisions": dict(stages[each.name]),
            "kept": dict(kept[each.name]),
        }
        for index, each in enumerate(plan.recipe.inputs)
    ]
    return {"inputs": inputs, "reasons": dict(reasons.most_common())}


def corpus_timings(plan: CorpusPlan, workers: int, seconds: float) -> dict[str, Any]:
    """Add up what the tasks took: of an interrupted preparation `seconds` is the last session's."""
    stages: Counter[str] = Counter()
    peak, read = 0, 0
    for phase, tasks in plan.phases.items():
        for task in range(tasks):
            mark = read_json(plan.mark(phase, task))
            stages.update(mark["seconds"] if phase == "clean" else {phase: mark["seconds"]})
            read += mark["counts"].get("bytes", 0) if phase == "clean" else 0
            peak = max(peak, mark["peak_bytes"])
    return {
        "seconds": seconds,
        "workers": workers,
        "peak_bytes_of_a_worker": peak,
        "text_bytes_read": read,
        "processor_seconds": dict(stages),
    }


def report_tables(report: Mapping[str, Any], timings: Mapping[str, Any]) -> list[Table]:
    """Say a report and its timings as tables."""
    table = Table(box=SIMPLE, padding=(0, 0, 0, 1))
    table.add_column("set", no_wrap=True)
    for name in ("domain", "in", "bad lines", *STAGES, "kept", "MB in", "MB kept"):
        table.add_column(name, justify="right")
    for each in report["inputs"]:
        if not each["present"]:
            continue
        given, made, kept = each["in"], each["decisions"], each["kept"]
        cells = [given.get("documents", 0), given.get("bad lines", 0)]
        shown = [f"{cell:,}" for cell in cells] + [_stage_cell(made, stage) for stage in STAGES]
        shown += [f"{kept.get('documents', 0):,}"]
        shown += [f"{part.get('bytes', 0) / 1e6:,.1f}" for part in (given, kept)]
        table.add_row(Text(each["name"]), Text(each["domain"]), *shown)
    reasons = Table("reason", box=SIMPLE, padding=(0, 0, 0, 1))
    reasons.add_column("documents", justify="right")
    for reason, count in report["reasons"].items():
        reasons.add_row(Text(reason), f"{count:,}")
    costs = Table("stage", box=SIMPLE, padding=(0, 0, 0, 1))
    costs.add_column("processor seconds", justify="right")
    costs.add_column("MB/s a core", justify="right")
    megabytes = timings["text_bytes_read"] / 1e6
    for stage, seconds in timings["processor_seconds"].items():
        costs.add_row(stage, f"{seconds:.2f}", f"{megabytes / max(seconds, 1e-9):,.0f}")
    costs.caption = (
        f"{megabytes:,.1f} MB of text in {timings['seconds']:.1f} s by {timings['workers']} "
        f"workers; at most {timings['peak_bytes_of_a_worker'] / 1e6:,.0f} MB a worker"
    )
    absent = [each["name"] for each in report["inputs"] if not each["present"]]
    table.caption = f"absent: {', '.join(absent)}" if absent else "dropped; in brackets changed"
    return [table, reasons, costs]


def _stage_cell(made: Mapping[str, int], stage: str) -> str:
    dropped, changed = (made.get(f"{stage}: {action}", 0) for action in ("dropped", "changed"))
    return (f"{dropped:,}" if dropped else "") + (f" ({changed:,})" if changed else "")


def _kind(reason: str) -> str:
    """A reason without its values, so that like ones are counted together."""
    return re.split(r"(?<=\S) [\d.]+(?![\w-])|:|;|,", re.sub(r"^[\d.]+ ", "", reason))[0]
