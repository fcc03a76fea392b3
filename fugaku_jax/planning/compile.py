"""The real step of a run, compiled ahead of time for a mesh that this machine need not have.

No weight is made: the compiler is given shapes and where each lies. What it says of a device's
memory is what the run would need, and that it says anything means that the run can take its step.
"""

import contextlib
import json
import math
import re
import resource
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fugaku_jax.config import Config
from fugaku_jax.errors import InputError
from fugaku_jax.models.layout import make_layout
from fugaku_jax.models.size import parameter_count
from fugaku_jax.planning.compiled_collectives import (
    CompiledCollective,
    collectives_of,
    largest_group,
)
from fugaku_jax.planning.mesh_plan import plan_run
from fugaku_jax.training.learning_rate import make_learning_rate
from fugaku_jax.training.optimizer import make_optimizer
from fugaku_jax.training.recipe_optimizer import optimizer_of_recipe
from fugaku_jax.training.state import abstract_state
from fugaku_jax.training.step import make_train_step

MOST_DEVICES = 2048
"""Devices that JAX counts in a process."""
OTHER_THREADS = 300
"""Threads of a process that emulates many, besides one for each of its devices."""
DEVICE_BYTES = 350_000
"""Memory that emulating a device takes where they are many, compiling included: measured with
13,824 and 55,296 of them."""


@dataclass(frozen=True)
class CompiledStep:
    """What a compiled step says of a run."""

    parameters: int
    """Weights of the model."""
    tokens: int
    """Tokens of the whole run."""
    devices: int
    """Devices of the mesh."""
    seconds: float
    """Time to trace and compile the step."""
    argument_bytes: int
    """Bytes of state and tokens on each device."""
    temporary_bytes: int
    """Bytes that a device needs beside them while it takes a step."""
    largest_group: int
    """Devices that meet in the largest group of any collective."""
    collectives: tuple[CompiledCollective, ...]
    """Its collectives, those of the largest groups first."""
    peak_bytes: int
    """Memory that all processes had at most while it was compiled, shared pages counted once."""
    learning_rates: dict[str, tuple[float, float]]
    """The rate of the `first`, the `middle` and the `last` step: that of the step, in fp32, and
    the same schedule's in float64."""


def compile_step(
    config: Config, devices: int, built: optax.GradientTransformation | None = None
) -> CompiledStep:
    """Compile a run's step for the first devices that JAX has here, or in other processes.

    Args:
        config: the run.
        devices: how many.
        built: what its recipe updates the weights by, if `optimizer.kind` is `recipe`.

    Raises:
        InputError: the run does not fit the mesh, or the mesh the devices.
    """
    # The text of a program tells of XLA's collectives alone.
    config = replace(config, mesh=replace(config.mesh, collective="flat"))
    layout = make_layout(config, jax.devices()[:devices])
    optimizer = make_optimizer(layout, built)

    def on_mesh(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        sharding = jax.NamedSharding(layout.mesh, leaf.sharding.spec if leaf.sharding else jax.P())
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    start = time.perf_counter()
    state = jax.tree.map(on_mesh, abstract_state(layout, optimizer))
    compiled = make_train_step(layout, optimizer=optimizer).lower(state, layout.batch).compile()
    seconds = time.perf_counter() - start
    memory: Any = compiled.memory_analysis()
    collectives = collectives_of(compiled.as_text() or "", dict(layout.mesh.shape))
    return CompiledStep(
        parameters=parameter_count(config.model),
        tokens=config.total_tokens,
        devices=devices,
        seconds=seconds,
        argument_bytes=memory.argument_size_in_bytes,
        temporary_bytes=memory.temp_size_in_bytes,
        largest_group=largest_group(collectives),
        collectives=tuple(collectives),
        peak_bytes=1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        learning_rates=_learning_rates(config),
    )


def compile_emulated(
    configs: Sequence[Config], recipes: Sequence[Path], devices: int | None = None
) -> list[CompiledStep]:
    """Compile the steps of runs, each for its own mesh, in processes that emulate the devices.

    The processes are as many as it takes to have the largest mesh's devices; the first compiles.

    Args:
        configs: the runs.
        recipes: the recipe's file of each, which may build its optimizer.
        devices: how many devices each has; those that `plan_run` gives it if not given.

    Raises:
        InputError: a run does not fit its mesh, or the mesh the devices; or this machine cannot
            emulate so many.
        RuntimeError: the compiler failed; the end of what it said.
    """
    counts = []
    for config, recipe in zip(configs, recipes, strict=True):
        planned = plan_run(config, devices, optimizer_of_recipe(recipe, config))
        counts.append(math.prod(planned.shape) * config.mesh.local)
    processes = _processes(max(counts))
    wanted, allowed = emulation_threads(max(counts))
    if wanted > allowed:
        raise InputError(
            f"Emulating {max(counts):,} devices takes {wanted:,} threads, but this machine allows "
            f"{allowed:,}; see kernel.pid_max, kernel.threads-max and `ulimit -u`."
        )
    with socket.create_server(("127.0.0.1", 0)) as server:
        coordinator = f"127.0.0.1:{server.getsockname()[1]}"
    job = {
        "runs": [
            (config.to_dict(), str(recipe), n)
            for config, recipe, n in zip(configs, recipes, counts, strict=True)
        ],
        "devices": max(counts) // processes,
        "processes": processes,
        "coordinator": coordinator if processes > 1 else None,
    }
    command = [sys.executable, "-m", "fugaku_jax.planning.emulated_process"]
    with contextlib.ExitStack() as stack:
        said = stack.enter_context(tempfile.TemporaryFile("w+"))
        started = []
        for rank in range(processes):
            # They wait for the end of their input, which is also that of this process.
            process = subprocess.Popen(
                [*command, str(rank)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE if rank == 0 else subprocess.DEVNULL,
                stderr=said if rank == 0 else subprocess.DEVNULL,
                text=True,
            )
            stack.callback(_end, process)
            started.append(process)
        for process in started:
            assert process.stdin
            print(json.dumps(job), file=process.stdin, flush=True)
        answer, _ = started[0].communicate()
        others = sum(map(_resident_bytes, started[1:]))
        if started[0].returncode:
            said.seek(0)
            raise RuntimeError(f"The step could not be compiled:\n{said.read()[-4000:]}")
    steps = [_from_json(fields) for fields in json.loads(answer)]
    return [replace(step, peak_bytes=step.peak_bytes + others) for step in steps]


def can_emulate(devices: int) -> bool:
    """Tell whether this machine now has the threads and the memory to emulate so many."""
    wanted, allowed = emulation_threads(devices)
    file = Path("/proc/meminfo")
    found = re.search(
        r"^MemAvailable: +([0-9]+) kB", file.read_text() if file.exists() else "", re.M
    )
    return wanted <= allowed and (not found or devices * DEVICE_BYTES < 1024 * int(found[1]))


def emulation_threads(devices: int) -> tuple[int, int]:
    """Return how many threads it takes to emulate so many (one for each, by XLA), and how many
    Linux allows.
    """
    limits = [resource.getrlimit(resource.RLIMIT_NPROC)[0]]
    for name in ("pid_max", "threads-max"):
        file = Path("/proc/sys/kernel") / name
        limits += [int(file.read_text())] if file.exists() else []
    allowed = min((limit for limit in limits if limit > 0), default=sys.maxsize)  # -1: any number
    return devices + _processes(devices) * OTHER_THREADS, allowed


def _processes(devices: int) -> int:
    """Return in how many processes so many devices are emulated."""
    return next(n for n in range(1, devices + 1) if _fits(devices, n))


def _from_json(fields: dict[str, Any]) -> CompiledStep:
    rates = {name: tuple(pair) for name, pair in fields["learning_rates"].items()}
    collectives = tuple(
        CompiledCollective(**row | {"axes": tuple(row["axes"]), "loops": tuple(row["loops"])})
        for row in fields["collectives"]
    )
    return CompiledStep(**fields | {"learning_rates": rates, "collectives": collectives})


def _fits(devices: int, processes: int) -> bool:
    return devices % processes == 0 and devices // processes <= MOST_DEVICES


def _resident_bytes(process: subprocess.Popen) -> int:
    """Return what a process has in memory, its part of what several share."""
    try:
        said = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
    except OSError:  # another system than Linux
        return 0
    found = re.search(r"^Pss: +([0-9]+) kB", said, re.MULTILINE)
    return 1024 * int(found[1]) if found else 0


def _end(process: subprocess.Popen) -> None:
    process.kill()
    process.communicate()


def _learning_rates(config: Config) -> dict[str, tuple[float, float]]:
    last = config.training.steps - 1
    rate = make_learning_rate(config)

    def both(step: int) -> tuple[float, float]:
        narrow = float(jax.jit(rate)(np.int32(step)))
        with jax.enable_x64(True):
            return narrow, float(rate(jnp.float64(step)))

    return {
        name: both(step) for name, step in (("first", 0), ("middle", last // 2), ("last", last))
    }
