"""The last phase: what is kept of a task's documents, and all that was decided on them."""

import io
import json
import time
from collections import Counter
from collections.abc import Mapping

import numpy as np
import zstandard

from fugaku_jax.corpora.decisions import Decision, read_decisions, write_decisions
from fugaku_jax.corpora.duplicates import copies
from fugaku_jax.corpora.plan import CorpusPlan
from fugaku_jax.data.lines import read_lines
from fugaku_jax.run.whole_file import replace_file

_LEVEL = 3  # of zstd


def write(plan: CorpusPlan, task: int) -> None:
    """Write a task's documents without copies of others, and the decisions on all of them."""
    clock = time.process_time()
    counts = Counter[str]()
    decisions = read_decisions(plan.work("clean", f"{task:06d}.parquet"))
    sizes = np.load(plan.work("clean", f"{task:06d}.sizes.npy")).tolist()
    ends = (sizes[0][0], sizes[-1][0]) if sizes else (0, 0)
    same, alike, named = (copies(plan, kind, *ends) for kind in ("text", "bands", "id"))
    written = io.BytesIO()
    path = plan.work("clean", f"{task:06d}.jsonl.zst")
    with (
        path.open("rb") as file,
        zstandard.ZstdCompressor(level=_LEVEL).stream_writer(written, closefd=False) as writer,
    ):
        lines = filter(None, read_lines(file, path.name))
        for line, (order, size, characters) in zip(lines, sizes, strict=True):
            if order in same or order in alike or order in named:
                decision, line = _decided(plan, line, order, same, alike, named)
                decisions.append(decision)
                if decision.action == "dropped":
                    continue
            for key, value in (("documents", 1), ("bytes", size), ("characters", characters)):
                counts[key] += value
            writer.write(line + b"\n")
    name = f"{plan.input_of(task).name}-{task:06d}"
    if counts["documents"]:
        replace_file(
            plan.output("documents", f"{name}.jsonl.zst"),
            lambda file: file.write(written.getvalue()),
        )
    write_decisions(plan.output("decisions", f"{name}.parquet"), decisions)
    seconds = time.process_time() - clock
    plan.set_mark("write", task, kept=dict(counts), seconds=seconds)


def _decided(
    plan: CorpusPlan,
    line: bytes,
    order: int,
    same: Mapping[int, int],
    alike: Mapping[int, int],
    named: Mapping[int, int],
) -> tuple[Decision, bytes]:
    """What becomes of a document that is like an earlier one, or named as one is."""
    document, near = json.loads(line), plan.recipe.near_duplicates
    identity, source = document["id"], document["source"]
    if order in same:
        reason = f"the same text as {plan.place(same[order])}"
        return Decision(identity, source, "duplicates", "dropped", reason), line
    if order in alike and near:
        bands = f"one of {near.bands} bands of {near.rows} hashes is the same"
        reason = f"like {plan.place(alike[order])}: {bands}"
        return Decision(identity, source, "near-duplicates", "dropped", reason), line
    again = f"{identity}#{plan.place(order)}"
    reason = f"named {again}, as {plan.place(named[order])} has its name"
    document |= {"id": again, "decisions": "; ".join(filter(None, (document["decisions"], reason)))}
    data = json.dumps(document, ensure_ascii=False).encode()
    return Decision(identity, source, "write", "changed", reason), data
