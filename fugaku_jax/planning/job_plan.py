"""A run on nodes of a machine: compiled for them, and its step, memory and node-hours modelled."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from fugaku_jax.config import Config
from fugaku_jax.errors import InputError
from fugaku_jax.layout.assignment import Assignment
from fugaku_jax.layout.factors import KINDS
from fugaku_jax.layout.mesh import assign_axes
from fugaku_jax.models.size import parameter_count
from fugaku_jax.planning.compile import CompiledStep, compile_emulated
from fugaku_jax.planning.compiled_collectives import CompiledCollective
from fugaku_jax.planning.links import StepLinks
from fugaku_jax.planning.measured import Measured
from fugaku_jax.planning.memory import DeviceBytes, model_bytes
from fugaku_jax.planning.mesh_plan import plan_run
from fugaku_jax.planning.rates import Rates, Software, device_rates
from fugaku_jax.planning.run_time import RunTime, run_time
from fugaku_jax.planning.step_time import StepTime, model_step, step_messages
from fugaku_jax.planning.step_work import Transfer, step_work
from fugaku_jax.planning.too_large import refuse_what_does_not_fit
from fugaku_jax.tofu.allocation import fold, parse_shape
from fugaku_jax.tofu.machine import Machine
from fugaku_jax.training.recipe_optimizer import optimizer_of_recipe


@dataclass(frozen=True)
class JobPlan:
    """What is known of a run before its job starts."""

    config: Config
    """The run, on the nodes asked for."""
    machine: Machine
    """Whose nodes they are."""
    nodes: str
    """As they are asked for, `48x6x48`."""
    links: StepLinks
    """What its mesh lies on."""
    rates: Rates
    """Of a device."""
    degrees: dict[str, int]
    """Kind of parallelism -> degree."""
    bytes: DeviceBytes
    """Of a device, as XLA counts them for the compiled step."""
    modelled_bytes: DeviceBytes
    """The same by the model that a search goes by."""
    compiled: CompiledStep
    """The step, compiled for all devices."""
    time: StepTime
    """Of a step."""
    run: RunTime
    """Of all of it."""
    messages: tuple[tuple[Transfer, float], ...]
    """What a device sends in a step (counts are a step's), and the modelled seconds of each."""


def on_nodes(config: Config, machine: Machine, nodes: str) -> tuple[Config, int]:
    """Return a run for the nodes of a job, and how many there are.

    Raises:
        InputError: PJM would refuse the shape, or the machine has not as many nodes.
    """
    network = machine.network
    if network.topology == "torus":
        job = parse_shape(nodes)
        fold(job)  # refuses what PJM would
        assign_shape = str(job)
        count = job.nodes
    else:
        if not nodes.isdigit() or not int(nodes):
            raise InputError(
                f"--nodes is {nodes!r}, but {machine.name} is no torus: give their number."
            )
        assign_shape, count = "", int(nodes)
    if count > network.nodes:
        raise InputError(
            f"--nodes {nodes} are {count:,} nodes, but {machine.name} has {network.nodes:,}."
        )
    return replace(config, mesh=replace(config.mesh, shape=assign_shape)), count


def resolved(config: Config, nodes: int) -> tuple[Config, Assignment, dict[str, int]]:
    """Fill the degrees in that are -1; return also what each axis of the mesh carries.

    Raises:
        InputError: the degrees do not multiply to the devices.
    """
    assignment = assign_axes(config.mesh, nodes * config.mesh.local)
    degrees = {
        kind: math.prod(part.size for part in assignment.parts if part.kind == kind)
        for kind in KINDS
    }
    given: dict[str, Any] = degrees
    return replace(config, mesh=replace(config.mesh, **given)), assignment, degrees


def plan_job(
    config: Config,
    recipe: Path,
    machine: Machine,
    nodes: str,
    software: Software,
    measured: Measured | None = None,
    tokens: float | None = None,
    compiled: CompiledStep | None = None,
) -> JobPlan:
    """Compile a run's step for the nodes of a job, and model what it takes.

    Args:
        config: the run.
        recipe: its file, which may build its optimizer.
        machine: that has the nodes.
        nodes: their shape as PJM is asked for it, or how many there are where it is no torus.
        software: what is made of the machine.
        measured: what was measured on one of its nodes.
        tokens: of the whole run; those of its steps if not given.
        compiled: the step, if it was compiled already.

    Raises:
        InputError: PJM would refuse the shape, the run does not fit the nodes, a device lacks
            memory (by how much, and what would help), or there are no tokens.
    """
    config, count = on_nodes(config, machine, nodes)
    run_time_of_tokens = run_time(config, tokens)  # refuses what is no budget
    config, assignment, degrees = resolved(config, count)
    planned = plan_run(config, count * config.mesh.local, optimizer_of_recipe(recipe, config))
    (compiled,) = (compiled,) if compiled else compile_emulated([config], [recipe])
    beside = compiled.argument_bytes - planned.parameter_bytes - planned.optimizer_bytes
    bytes_ = DeviceBytes(
        planned.parameter_bytes, planned.optimizer_bytes, compiled.temporary_bytes + beside
    )
    refuse_what_does_not_fit(config, degrees, bytes_, machine)
    rates = device_rates(machine, config.mesh.local, software, measured)
    links = StepLinks(
        machine, assignment, config.mesh.collective, software.links, software.gradient_links
    )
    time = model_step(config, degrees, rates, links)
    return JobPlan(
        config=config,
        machine=machine,
        nodes=nodes,
        links=links,
        rates=rates,
        degrees=degrees,
        bytes=bytes_,
        modelled_bytes=model_bytes(config, step_work(config, degrees)),
        compiled=compiled,
        time=time,
        run=run_time_of_tokens(time.seconds, count, parameter_count(config.model), machine),
        messages=tuple((m, links.seconds(m)) for m in step_messages(config, degrees)),
    )


def as_json(plan: JobPlan) -> dict[str, Any]:
    """Return a plan as the object that `launch/plan.py RECIPE --nodes SHAPE --json` prints."""
    bytes_ = plan.bytes
    return {
        "machine": plan.machine.name,
        "nodes": plan.nodes,
        "layout": layout_of(plan.config, plan.degrees),
        "devices": plan.compiled.devices,
        "compile_seconds": plan.compiled.seconds,
        "compile_peak_bytes": plan.compiled.peak_bytes,
        "bytes_per_device": {
            "parameters": bytes_.parameters,
            "optimizer": bytes_.optimizer,
            "temporaries": bytes_.temporaries,
            "total": bytes_.total,
            "available": int(plan.machine.node.job_bytes / plan.config.mesh.local),
            "total_modelled": plan.modelled_bytes.total,
        },
        "largest_group": plan.compiled.largest_group,
        "collectives": [_collective(plan.links, row) for row in plan.compiled.collectives],
        "messages_a_step_modelled": [_message(plan.links, *row) for row in plan.messages],
        "step_seconds_modelled": plan.time.seconds,
        "breakdown": dict(plan.time.breakdown),
        "mfu_modelled": plan.time.mfu,
        "tokens": plan.run.tokens,
        "days_modelled": plan.run.seconds / 86_400,
        "node_hours_modelled": plan.run.node_hours,
        "beside_steps_modelled": dict(plan.run.beside_steps),
        "inputs": inputs_of(plan),
    }


def layout_of(config: Config, degrees: Mapping[str, int]) -> dict[str, Any]:
    """Return what distinguishes a layout, by the names of the configuration's fields."""
    mesh, training = config.mesh, config.training
    return dict(degrees) | {
        "local": mesh.local,
        "sequence_parallel": mesh.sequence_parallel,
        "weights": mesh.weights,
        "schedule": mesh.schedule,
        "chunks": mesh.chunks,
        "recompute_stages": mesh.recompute_stages,
        "collective": mesh.collective,
        "micro_batches": training.micro_batches,
        "precision": training.precision,
        "remat": training.remat,
    }


def inputs_of(plan: JobPlan) -> dict[str, Any]:
    """Return the figures that the modelled ones come from."""
    rates, software = plan.rates, plan.rates.software
    return {
        "machine": asdict(plan.machine),
        "assumptions": asdict(replace(software, product=dict(software.product))),
        "peak_flops_of_a_device": dict(rates.peak),
        "stream_bytes_per_second_of_a_device": rates.stream,
        "rates": "measured" if rates.measured else "modelled from the kernels' cycles",
    }


def _collective(links: StepLinks, row: CompiledCollective) -> dict[str, Any]:
    kinds = {part.name: part.kind for part in links.assignment.parts}
    over = sorted({kinds[axis] for axis in row.axes if axis in kinds}, key=KINDS.index)
    return asdict(row) | {"over": over}


def _message(links: StepLinks, message: Transfer, seconds: float) -> dict[str, Any]:
    axes = links.axes(message.over)
    found = links.time(message)
    return {
        "kind": message.kind,
        "over": list(message.over),
        "axes": list(axes),
        "members": links.members(message.over),
        "bytes": message.bytes,
        "count": message.count,
        "seconds_modelled": seconds,
        "busiest_link": found.busiest,
    }
