"""The last phase: what is kept of a task's documents, and all that was decided on them."""

import io
import json
import time
from collections import Counter

import zstandard

from fugaku_jax.corpora.clean import LEVEL
from fugaku_jax.corpora.decisions import Decision, read_decisions, write_decisions
from fugaku_jax.corpora.duplicates import copies
from fugaku_jax.corpora.plan import CorpusPlan
from fugaku_jax.data.lines import read_lines
from fugaku_jax.run.whole_file import replace_file, write_json


def write(plan: CorpusPlan, task: int) -> None:
    """Write a task's documents without copies of others, and the decisions on all of them."""
    clock = time.perf_counter()
    near, counts = plan.recipe.near_duplicates, Counter[str]()
    same, alike, named = (copies(plan, kind) for kind in ("text", "bands", "id"))
    decisions = read_decisions(plan.work("clean", f"{task:06d}.parquet"))
    written = io.BytesIO()
    path = plan.work("clean", f"{task:06d}.jsonl.zst")
    with (
        path.open("rb") as file,
        zstandard.ZstdCompressor(level=LEVEL).stream_writer(written, closefd=False) as writer,
    ):
        for line in filter(None, read_lines(file, path.name)):
            document = json.loads(line)
            order, stage, reason = document.pop("order"), "", ""
            if order in same:
                stage, reason = "duplicates", f"the same text as {plan.place(same[order])}"
            elif order in alike and near:
                bands = f"one of {near.bands} bands of {near.rows} hashes is the same"
                stage, reason = "near-duplicates", f"like {plan.place(alike[order])}: {bands}"
            if stage:
                row = Decision(document["id"], document["source"], stage, "dropped", reason)
                decisions.append(row)
                continue
            if order in named:
                again = f"{document['id']}#{plan.place(order)}"
                reason = f"named {again}, as {plan.place(named[order])} has its name"
                row = Decision(document["id"], document["source"], "write", "changed", reason)
                decisions.append(row)
                document["id"] = again
                document["decisions"] = "; ".join(filter(None, (document["decisions"], reason)))
            counts["documents"] += 1
            counts["bytes"] += len(document["text"].encode())
            counts["characters"] += len(document["text"])
            writer.write(json.dumps(document, ensure_ascii=False).encode() + b"\n")
    name = f"{plan.input_of(task).name}-{task:06d}"
    if counts["documents"]:
        replace_file(
            plan.output("documents", f"{name}.jsonl.zst"),
            lambda file: file.write(written.getvalue()),
        )
    write_decisions(plan.output("decisions", f"{name}.parquet"), decisions)
    seconds = time.perf_counter() - clock
    write_json(plan.mark("write", task), {"kept": dict(counts), "seconds": seconds})
