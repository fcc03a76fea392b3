"""Show how a recipe would lie on a machine: mesh, memory, pipeline, rank map. No device is needed.

python launch/plan.py fugaku_llm_13b
python launch/plan.py fugaku_llm_13b --nodes 48x6x48 --search --html plan.html
python launch/plan.py original
python launch/plan.py tiny --devices 8 --mesh.tensor 2 --picture mesh.svg
python launch/plan.py schedule --kind 1f1b --stages 4 --micro-batches 8 --picture schedule.svg
python launch/plan.py vcoordfile fugaku_llm_13b --out rank_map.txt
python launch/plan.py network --all-reduce 1.29GB --axes x,z
"""

import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro
from command import parse, run_program
from network import network
from plan_nodes import plan_nodes
from plan_original import plan_original
from recipes import load_recipe, recipe_file
from rich.console import Console
from rich.table import Table

from fugaku_jax.config import Config
from fugaku_jax.pipeline.schedule import Schedule, make_schedule
from fugaku_jax.pipeline.slots import plan_slots
from fugaku_jax.planning.draw_mesh import draw_mesh
from fugaku_jax.planning.draw_schedule import draw_schedule
from fugaku_jax.planning.mesh_plan import describe_schedule, plan_run, write_rank_map
from fugaku_jax.training.recipe_optimizer import optimizer_of_recipe

Recipe = Annotated[Config, tyro.conf.arg(name="")]


def plan(
    config: Recipe,
    name: tyro.conf.Suppress[str],
    devices: int | None = None,
    picture: Path | None = None,
) -> None:
    """Show how a recipe would lie on a machine.

    Args:
        config: The configuration; every field can be overridden.
        name: What it is called.
        devices: Devices there are; else what mesh.shape has, else as few as the degrees need.
        picture: Also draw the mesh into this .svg file.
    """
    run = plan_run(config, devices, optimizer_of_recipe(recipe_file(name), config))
    print(f"{run.parameters:,} parameters, {config.tokens_per_step:,} tokens a step")
    print(f"mesh {'x'.join(map(str, run.shape))}: {run.mesh or 'a single device'}")
    print(f"degrees: {', '.join(f'{kind} {degree}' for kind, degree in run.degrees.items())}")
    sizes = {"parameters": run.parameter_bytes, "optimizer state": run.optimizer_bytes}
    print("on each device:", ", ".join(f"{n:,} bytes of {what}" for what, n in sizes.items()))
    if run.degrees["pipeline"] > 1:
        show(run.schedule, layers=run.layers, recomputes=run.recomputes)
    if picture:
        print(draw_mesh(run.shape, run.nodes, picture))


def schedule(
    kind: str, stages: int, micro_batches: int, chunks: int = 1, picture: Path | None = None
) -> None:
    """Show a pipeline schedule.

    Args:
        kind: gpipe, 1f1b, interleaved or zero_bubble.
        stages: Devices that the layers are spread over.
        micro_batches: Parts of a batch.
        chunks: Runs of layers on each stage, with interleaved.
        picture: Also draw the schedule into this .svg file.
    """
    show(table := make_schedule(kind, stages, micro_batches, chunks))
    if picture:
        print(draw_schedule(table, picture))


def show(table: Schedule, **columns: tuple[str, ...]) -> None:
    """Print a schedule's figures, and a row for each stage."""
    print(describe_schedule(table))
    in_flight = plan_slots(table).residual_high_water
    rows = Table("stage", *columns, "in flight")
    for row in zip(range(table.stages), *columns.values(), in_flight, strict=True):
        rows.add_row(*map(str, row))
    Console().print(rows)


def vcoordfile(config: Recipe, out: Path, job: str = "") -> None:
    """Write on which node each rank of a recipe's mesh belongs, for `mpirun --vcoordfile`.

    Args:
        config: The configuration; every field can be overridden.
        out: The file to write, a line `(x,y,z)` a rank, of which every device is one.
        job: The nodes as PJM is asked for them, 48x6x48:torus; else those of mesh.shape.
    """
    print(write_rank_map(config, out, job))


def main() -> None:
    """Read the arguments and show."""
    args = sys.argv[1:]
    others = {"network": network, "schedule": schedule, "original": plan_original}
    if args and args[0] in others:
        return parse(others[args[0]], args[1:], prog=f"plan.py {args[0]}")
    if is_map := args[:1] == ["vcoordfile"]:
        args = args[1:]
    name = "tiny" if args[:1] in (["-h"], ["--help"]) else args.pop(0) if args else ""
    config = load_recipe(name)
    if any(arg.split("=")[0] == "--nodes" for arg in args):
        program = partial(plan_nodes, config=config, name=name)
    elif is_map:
        program = partial(vcoordfile, config=config)
    else:
        program = partial(plan, config=config, name=name)
    return parse(program, args, description=__doc__)


if __name__ == "__main__":
    run_program(main)
