"""What collectives take on a machine's network, modelled: a command of `plan.py`."""

import json
import math
import re
from dataclasses import asdict
from typing import Annotated, Literal, get_args

import tyro
from machines import load_machine
from rich.console import Console
from rich.table import Table

from fugaku_jax.collectives.routes import plan_routes, wires_of
from fugaku_jax.errors import InputError
from fugaku_jax.layout.torus import torus_shape
from fugaku_jax.tofu.links import LOCAL
from fugaku_jax.tofu.machine import Machine
from fugaku_jax.tofu.network import CollectiveTime, collective_seconds
from fugaku_jax.tofu.rounds import Algorithm, Kind
from fugaku_jax.tofu.topology import AXES

Algorithms = Literal["ring", "snake", "bucket", "halving", "torus"]
Parts = tuple[tuple[str, int], ...]
_UNITS = {"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}


def network(
    axes: str,
    all_reduce: str = "",
    reduce_scatter: str = "",
    all_gather: str = "",
    all_to_all: str = "",
    send: str = "",
    algorithm: Algorithms | Literal["all"] = "all",
    machine: str = "fugaku",
    shape: str = "",
    split: tuple[str, ...] = (),
    local: int = 1,
    as_json: Annotated[bool, tyro.conf.arg(name="json"), tyro.conf.FlagCreatePairsOff] = False,
) -> None:
    """Show what a collective takes, modelled, in all groups along some axes at once.

    Args:
        axes: Mesh axes of each group, the outermost first: x,z.
        all_reduce: Buffer of each device that is summed for all: 1.29GB, 64MiB, 4096.
        reduce_scatter: Buffer of each device before it.
        all_gather: Buffer of each device after it.
        all_to_all: Buffer of each device, of which every other gets a part.
        send: Message of each device to the next along the axes.
        algorithm: How; `torus` drives all links of a node at once.
        machine: A file of configs/machines/ by its name, or the path of one (.toml).
        shape: Nodes of the job, else all that there are: 48x6x48, which is folded, or six sizes;
            where there is no torus, one for each axis.
        split: Parts of axes, the outermost first: x=3x8 makes x0 of 3 and x1 of 8.
        local: Devices of a node, along the axis k.
        as_json: Print one JSON object.
    """
    sizes = (all_reduce, reduce_scatter, all_gather, all_to_all, send)
    asked = [(kind, size) for kind, size in zip(get_args(Kind), sizes, strict=True) if size]
    if len(asked) != 1:
        raise InputError(
            f"network: give one of {', '.join(f'--{k} SIZE' for k in get_args(Kind))}."
        )
    (kind, size), given, names = asked[0], load_machine(machine), tuple(axes.split(","))
    nbytes, parts = _bytes(size), _parts(given, shape, split, local)
    algorithms = get_args(Algorithms) if algorithm == "all" else (algorithm,)
    times = {
        each: collective_seconds(given, parts, names, kind, nbytes, _planned(each, parts, names))
        for each in algorithms
    }
    group = math.prod(dict(parts)[name] for name in names)
    if as_json:
        rows = [{"algorithm": name, "modelled": asdict(time)} for name, time in times.items()]
        told = {"machine": given.name, "kind": kind, "bytes": nbytes, "axes": names}
        print(json.dumps(told | {"mesh": dict(parts), "group": group, "algorithms": rows}))
        return
    mesh = ", ".join(f"{name}={length}" for name, length in parts if length > 1)
    print(f"{given.name}, mesh {mesh}: {kind} of {nbytes:,.0f} bytes in groups of {group}, {axes}")
    _show(times)


def _show(times: dict[str, CollectiveTime]) -> None:
    table = Table(
        "algorithm", "seconds, modelled", "times ring's speed", "busiest link", "its bytes"
    )
    ring = times["ring"].seconds if "ring" in times else 0.0
    for name, time in times.items():
        faster = f"{ring / time.seconds:.2f}" if ring and time.seconds else ""
        carried = f"{time.busiest_bytes:,.0f}"
        table.add_row(name, f"{time.seconds:.6f}", faster, time.busiest, carried)
    Console().print(table)
    print(
        f"no algorithm takes less than {next(iter(times.values())).bound_seconds:.6f} s, modelled"
    )


def _planned(name: Algorithms, parts: Parts, axes: tuple[str, ...]) -> Algorithm:
    """Return the walks of the algorithm `torus`; any other is known by its name."""
    if name != "torus":
        return name
    sizes = dict(parts)
    between = [axis for axis in axes if axis in sizes and axis != LOCAL]
    return plan_routes(tuple(sizes[axis] for axis in between), wires_of(parts, between))


def _bytes(text: str) -> float:
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?([kMG]|[KMG]i|)B?", text)
    if match is None:
        raise InputError(f"size {text!r}: write it as 1.29GB, 64MiB or 4096.")
    return float(match[1]) * _UNITS[match[2]]


def _parts(machine: Machine, shape: str, splits: tuple[str, ...], local: int) -> Parts:
    """Return the axes of the mesh that a job's nodes, and how axes are split, make."""
    has, fills = machine.network.shape, (1,) * len(AXES)
    if shape and machine.network.topology == "torus":
        has = torus_shape(shape)
    elif shape:
        if re.fullmatch(r"[1-9][0-9]{0,6}(x[1-9][0-9]{0,6}){0,5}", shape) is None:
            raise InputError(f"--shape {shape}: write one to six sizes, as 16x4.")
        has = tuple(map(int, shape.split("x")))
    sizes = (has + fills)[: len(AXES)]
    parts: dict[str, Parts] = {axis: ((axis, n),) for axis, n in zip(AXES, sizes, strict=True)}
    for text in splits:
        match = re.fullmatch(rf"([{''.join(AXES)}])=([1-9][0-9]*(?:x[1-9][0-9]*)+)", text)
        factors = tuple(map(int, match[2].split("x"))) if match else ()
        whole = dict(zip(AXES, sizes, strict=True))[match[1]] if match else 0
        if match is None or math.prod(factors) != whole:
            raise InputError(
                f"--split {text}: write x=3x8, an axis and parts whose product is its size "
                f"({', '.join(f'{axis} {n}' for axis, n in zip(AXES, sizes, strict=True))})."
            )
        parts[match[1]] = tuple((f"{match[1]}{i}", n) for i, n in enumerate(factors))
    if local < 1:
        raise InputError(f"--local is {local}, but it must be at least 1.")
    return (*(part for axis in AXES for part in parts[axis]), (LOCAL, local))
