"""Refuses a run whose devices lack memory, by how much, and says what would make it fit."""

from collections.abc import Mapping
from dataclasses import replace

from fugaku_jax.config import Config
from fugaku_jax.errors import InputError
from fugaku_jax.planning.layout_options import SAVINGS
from fugaku_jax.planning.memory import DeviceBytes, model_bytes
from fugaku_jax.planning.step_work import step_work
from fugaku_jax.spelling import size
from fugaku_jax.tofu.machine import Machine


def refuse_what_does_not_fit(
    config: Config, degrees: Mapping[str, int], needed: DeviceBytes, machine: Machine
) -> None:
    """Compare what a device needs with what it has.

    Raises:
        InputError: it needs more; the sentence names the first remedy that is modelled to do.
    """
    room = machine.node.job_bytes / config.mesh.local
    over = needed.total - room
    if over <= 0:
        return
    raise InputError(
        f"A device needs {needed.total:,} bytes ({size(needed.parameters)} of parameters, "
        f"{size(needed.optimizer)} of optimizer state, {size(needed.temporaries)} of "
        f"temporaries), {over:,.0f} more than the {room:,.0f} that a node of {machine.name} leaves "
        f"to it; {_remedy(config, degrees, needed, over)}"
    )


def _remedy(config: Config, degrees: Mapping[str, int], needed: DeviceBytes, over: float) -> str:
    """Name the first change whose modelled saving is large enough."""
    now = model_bytes(config, step_work(config, degrees)).total
    best, most = "", 0.0
    for name, changed in _changes(config, degrees):
        saved = now - model_bytes(changed, step_work(changed, degrees)).total
        saved *= needed.total / now
        if saved > over:
            return f"{name} would save {size(saved)} (modelled)."
        if saved > most:
            best, most = name, saved
    if not best:
        return "more nodes, or more of mesh.tensor or mesh.pipeline, would help."
    return f"{best} would save {size(most)} (modelled), which is not enough; --search looks on."


def _changes(config: Config, degrees: Mapping[str, int]) -> list[tuple[str, Config]]:
    mesh, training = config.mesh, config.training
    changes = []
    if degrees["tensor"] > 1 and not mesh.sequence_parallel:
        shared = replace(config, mesh=replace(mesh, sequence_parallel=True))
        changes.append(("--mesh.sequence-parallel", shared))
    for saving in SAVINGS:
        recomputing = int(saving.stages * degrees["pipeline"]) or mesh.recompute_stages
        name = f"--mesh.weights {saving.weights} --training.remat {saving.remat}"
        if recomputing:
            name += f" --mesh.recompute-stages {recomputing}"
        if degrees["data"] * degrees["context"] == 1 and saving.weights != "replicated":
            continue
        changed = replace(
            config,
            mesh=replace(mesh, weights=saving.weights, recompute_stages=recomputing),
            training=replace(training, remat=saving.remat),
        )
        changes.append((name, changed))
    return changes
