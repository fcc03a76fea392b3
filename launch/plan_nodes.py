"""`plan.py RECIPE --nodes SHAPE`: a run on nodes of a machine, before its job starts."""

import json as json_format
import shlex
from pathlib import Path
from typing import Annotated, Any

import tyro
from machines import load_machine
from recipes import command_of, recipe_file
from rich.console import Console
from rich.table import Table

from fugaku_jax.config import Config
from fugaku_jax.planning.assumptions import OURS
from fugaku_jax.planning.best_layouts import BestLayouts, best_layouts, ranking_as_json
from fugaku_jax.planning.job_plan import JobPlan, as_json, plan_job
from fugaku_jax.planning.measured import read_measured
from fugaku_jax.planning.page import write_page
from fugaku_jax.planning.write_job import write_job
from fugaku_jax.spelling import amount, duration, size

CLUSTER = Path(__file__).parent / "cluster"
Flag = tyro.conf.FlagCreatePairsOff[bool]


def plan_nodes(
    config: Annotated[Config, tyro.conf.arg(name="")],
    name: tyro.conf.Suppress[str],
    nodes: str,
    machine: str = "fugaku",
    measured: Path | None = None,
    tokens: float | None = None,
    search: Flag = False,
    job: Path | None = None,
    html: Path | None = None,
    json: Flag = False,
) -> None:
    """Compile the real step for the nodes of a job, and model its time, memory and node-hours.

    Args:
        config: The configuration; every field can be overridden.
        name: What it is called.
        nodes: Their shape as PJM is asked for it (48x6x48); where there is no torus, their number.
        machine: A name of configs/machines, or a .toml file.
        measured: What `bench.py kernels --json` printed on one of its nodes.
        tokens: Tokens of the run; those of its steps if not given.
        search: Rank all layouts that fit, and take the best.
        job: Also write the job's scripts into this directory, and check them.
        html: Also draw one page.
        json: Print one JSON object.
    """
    hardware, recipe = load_machine(machine), recipe_file(name)
    rates = read_measured(measured) if measured else None
    found = None
    if search:
        found = best_layouts(config, recipe, hardware, nodes, OURS, rates, tokens)
    plan = found.plan if found else plan_job(config, recipe, hardware, nodes, OURS, rates, tokens)
    written = [write_job(plan, _arguments(plan, name), CLUSTER, job)] if job else []
    written += [write_page(plan, name, found, html)] if html else []
    if json:
        ranking = ranking_as_json(found) if found else {}
        return print(json_format.dumps(as_json(plan) | ranking))
    show(plan, found)
    for path in written:
        print(path)
    return None


def show(plan: JobPlan, found: BestLayouts | None) -> None:
    """Print a plan as tables."""
    console, time, run = Console(), plan.time, plan.run
    if found:
        console.print(_ranking(found))
    layout = ", ".join(f"{kind} {n}" for kind, n in plan.degrees.items())
    print(f"{plan.compiled.devices:,} devices of {plan.machine.name}: {layout}")
    compiled = plan.compiled
    print(
        f"compiled in {compiled.seconds:.1f} s and {size(compiled.peak_bytes)}; "
        f"largest group {compiled.largest_group}"
    )
    room = plan.machine.node.job_bytes / plan.config.mesh.local
    memory = Table("on each device", "bytes", "of what there is")
    for kind in ("parameters", "optimizer", "temporaries", "total"):
        value = getattr(plan.bytes, kind)
        memory.add_row(kind, f"{value:,}", f"{value / room:.1%}")
    messages = Table("messages of a step", "along", "axes", "bytes", "count", "modelled s")
    for row in as_json(plan)["messages_a_step_modelled"]:
        along, axes = " ".join(row["over"]), " ".join(row["axes"])
        seconds = f"{row['seconds_modelled']:.3f}"
        messages.add_row(
            *(row["kind"], along, axes, f"{size(row['bytes'])}", str(row["count"]), seconds)
        )
    parts = Table("modelled", "seconds", "share")
    for kind, seconds in sorted(time.breakdown.items(), key=lambda item: -item[1]):
        parts.add_row(kind, f"{seconds:.3f}", f"{seconds / time.seconds:.1%}")
    parts.add_row("step", f"{time.seconds:.3f}", "")
    console.print(memory, messages, parts)
    print(
        f"modelled: MFU {time.mfu:.1%}; {amount(run.tokens)} tokens in {run.steps:,} steps take "
        f"{duration(run.seconds)}, {run.node_hours:,.0f} node-hours"
    )


def _arguments(plan: JobPlan, name: str) -> list[str]:
    """Return what train.py is to be told; the run directory has the recipe's name."""
    words = shlex.split(command_of(plan.config, Path("runs") / name))
    return words[words.index("launch/train.py") + 1 :]


def _ranking(found: BestLayouts) -> Table:
    rows: list[dict[str, Any]] = ranking_as_json(found)["ranking"]
    table = Table("modelled s", *("layout", "precision", "bytes modelled", "compiled"))
    for row in rows:
        compiled = row["bytes_compiled"]
        table.add_row(
            f"{row['step_seconds_modelled']:.3f}",
            row["arguments"],
            row["layout"]["precision"],
            f"{size(row['bytes_modelled'])}",
            f"{size(compiled)}" if compiled else "",
        )
    ranking = found.ranking
    table.caption = (
        f"{ranking.tried:,} layouts in {ranking.seconds:.1f} s; {ranking.fitted:,} of them fit"
    )
    return table
