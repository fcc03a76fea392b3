"""A torus of hosts that do not exist: network namespaces, a pair of devices for each link.

Every link carries the same low bandwidth each way, as `tc` shapes it. A node has one address; what
is not for a neighbour goes through other nodes, along the first axis first, as on Tofu-D. All of it
ends with the process that made it, which has to be alone in its namespaces (`namespaces`).
"""

import itertools
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from fugaku_jax.collectives.links import neighbours
from fugaku_jax.errors import InputError, RunError

MTU = 9000
"""Bytes of a packet: fewer, larger ones leave the processor to the processes."""

PORT = 7777

_TRIAL = "mount -t tmpfs tmpfs /run && ip link add type veth && ip netns add a"


def namespaces() -> list[str]:
    """Return the command that runs another in namespaces of its own.

    Raises:
        InputError: this machine lets nobody make them.
    """
    missing = [name for name in ("unshare", "ip", "tc") if not shutil.which(name)]
    why = f"it lacks {' and '.join(missing)}" if missing else ""
    command = ["unshare", "--net", "--mount", "--uts"]
    for each in ([*command, "--map-root-user"], command) if not missing else ():
        done = subprocess.run([*each, "sh", "-c", _TRIAL], capture_output=True, text=True)
        if done.returncode == 0:
            return each
        why = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "it says no more"
    raise InputError(
        "A torus of network namespaces cannot be made on this machine "
        f"({why}); run this as root, or where unprivileged user namespaces are allowed."
    )


def wire(shape: Sequence[int], megabits: float) -> None:
    """Make the nodes `node0`, `node1`, … and their links, in namespaces as of `namespaces`.

    Args:
        shape: nodes along each axis; the last varies fastest with a node's number.
        megabits: a second, of each link each way.
    """
    axes = dict(zip(map(str, range(len(shape))), shape, strict=True))
    places = list(itertools.product(*map(range, shape)))
    number = {place: node for node, place in enumerate(places)}
    _run("mount -t tmpfs tmpfs /run")
    hosts = Path("/run/hosts")
    hosts.write_text(
        "127.0.0.1 localhost\n" + "".join(f"{_address(n)} node{n}\n" for n in range(len(places)))
    )
    _run(f"mount --bind {hosts} /etc/hosts")
    there = {
        node: {
            end: number[tuple(place.values())]
            for end, place in neighbours(axes, dict(zip(axes, at, strict=True))).items()
        }
        for node, at in enumerate(places)
    }
    for node in there:
        _run(f"ip netns add node{node}")
    for node, ends in there.items():
        for (axis, backward), other in ends.items():
            if backward or (axes[axis] == 2 and node > other):
                continue  # the other end makes it
            back = f"l{axis}{int(axes[axis] > 2)}"
            _run(
                f"ip link add l{axis}0 netns node{node} mtu {MTU} type veth "
                f"peer name {back} netns node{other} mtu {MTU}"
            )
    for node, ends in there.items():
        lines = ["link set lo up", f"addr add {_address(node)}/32 dev lo"]
        lines += [f"link set l{axis}{int(backward)} up" for axis, backward in ends]
        for other, to in number.items():
            if to != node:
                end = _first_hop(shape, places[node], other)
                device = f"l{end[0]}{int(end[1])}"
                via = f"via {_address(ends[end])} " if ends[end] != to else ""
                onlink = " onlink" if via else ""
                lines.append(
                    f"route add {_address(to)}/32 {via}dev {device}{onlink} src {_address(node)}"
                )
        # Those to neighbours first: the others lead through them.
        lines.sort(key=lambda line: "via" in line)
        _run(f"ip -n node{node} -batch -", "\n".join(lines))
        shaped = f"root tbf rate {megabits}mbit burst 32kb limit 512kb"
        _run(
            f"tc -n node{node} -batch -",
            "\n".join(f"qdisc add dev l{axis}{int(back)} {shaped}" for axis, back in ends),
        )
        forward = "echo 1 > /proc/sys/net/ipv4/ip_forward"
        _run(f"ip netns exec node{node} sh -c '{forward}'")


def on_all_nodes(shape: Sequence[int], megabits: float, module: Sequence[str]) -> int:
    """Wire a torus and run a module on each node; the exit code of the first that failed.

    Args:
        shape: as of `wire`.
        megabits: as of `wire`.
        module: its name and arguments; its processes are to join. What rank 0 prints is printed.
    """
    wire(shape, megabits)
    nodes = math.prod(shape)
    processes = [
        subprocess.Popen(
            _on_node(node, [sys.executable, "-m", *module]),
            env=os.environ
            | {
                "FUGAKU_JAX_COORDINATOR": f"node0:{PORT}",
                "FUGAKU_JAX_PROCESSES": str(nodes),
                "FUGAKU_JAX_PROCESS": str(node),
            },
            stdout=None if node == 0 else subprocess.DEVNULL,
        )
        for node in range(nodes)
    ]
    return max(abs(process.wait()) for process in processes)


def _on_node(node: int, command: Sequence[str]) -> list[str]:
    """Return the command that runs another on a node, which then has the node's name."""
    script = 'hostname "$1" && exec "${@:2}"'
    enter = ["ip", "netns", "exec", f"node{node}", "unshare", "--uts"]
    return [*enter, "bash", "-c", script, "bash", f"node{node}", *command]


def _first_hop(shape: Sequence[int], here: Sequence[int], there: Sequence[int]) -> tuple[str, bool]:
    """Return which neighbour is next on the way: by the first axis that differs, the short way."""
    axis = next(i for i, (a, b) in enumerate(zip(here, there, strict=True)) if a != b)
    ahead = (there[axis] - here[axis]) % shape[axis]
    return str(axis), shape[axis] > 2 and 2 * ahead > shape[axis]


def _address(node: int) -> str:
    return f"10.77.{node // 250}.{node % 250 + 1}"


def _run(command: str, standard_input: str = "") -> None:
    done = subprocess.run(
        ["bash", "-c", command], input=standard_input, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RunError(f"{command} failed: {done.stderr.strip()}")
