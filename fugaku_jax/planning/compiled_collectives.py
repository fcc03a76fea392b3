"""The collectives of a compiled program, read from its text: who meets whom, and over how much.

The text is what `jax.stages.Compiled.as_text` gives: HLO after XLA has shared the program out among
the devices. It is the only place that tells what a program really does, as JAX and XLA add
collectives of their own to those that the program asks for.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Int

_KINDS = "all-reduce|reduce-scatter|all-gather|all-to-all|collective-permute|collective-broadcast"
_COLLECTIVE = re.compile(rf" = (.*?) ({_KINDS})(-start)?\(")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([^ ]+) \(.*\{$")
_CALLED = re.compile(r"(?:body|to_apply|calls)=%?([^ ,)]+)|branch_computations=\{([^}]*)\}")
_ROUNDS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_SHAPE = re.compile(r"(pred|[a-z]+(\d+)\w*)\[([\d,]*)\]")
_MESH = re.compile(
    r"mesh\[([^\]]*)\](?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))? ?\{([^}]*)\}"
)
_IOTA = re.compile(r"\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")


@dataclass(frozen=True)
class CompiledCollective:
    """Collectives of a program that are alike."""

    kind: str
    """`all-reduce`, `reduce-scatter`, `all-gather`, `all-to-all`, `collective-permute` or
    `collective-broadcast`."""
    members: int
    """Devices of its largest group; the two ends of a permutation's pairs are one."""
    groups: int
    """How many groups, or pairs, meet in it."""
    axes: tuple[str, ...]
    """The mesh axes along which a largest group's members differ, as far as they are known."""
    bytes: int
    """Of the whole buffer that a group shares: what is reduced or moved, what a gather results in,
    what a scatter begins with."""
    loops: tuple[int, ...]
    """Rounds of the loops that it is in, the outermost first; 0 of one whose rounds the compiler
    does not know, as of those that run once or not at all."""
    count: int
    """How many instructions of the program are such."""


def collectives_of(text: str, mesh: Mapping[str, int] | None = None) -> list[CompiledCollective]:
    """Return the collectives of a compiled program, those of the largest groups first.

    Args:
        text: the program, as `as_text` of what JAX compiled gives it.
        mesh: sizes of the mesh axes by their names, the outermost first, to name axes by.

    Raises:
        ValueError: the text is none, or groups are written in a way that is not known here.
    """
    computations, entry = _computations(text)
    header = text[: text.index("\n")]
    devices = math.prod(
        int(found[1]) for found in re.finditer(r"(?:num_partitions|replica_count)=(\d+)", header)
    )
    found = Counter[CompiledCollective]()
    pending = [(entry, ())]
    while pending:
        name, loops = pending.pop()
        for line in computations[name]:
            if match := _COLLECTIVE.search(line):
                found[_read(line, match, loops, devices, mesh or {})] += 1
            elif " while(" in line:
                rounds = _ROUNDS.search(line)
                inside = (*loops, int(rounds[1]) if rounds else 0)
                pending += [(called, inside) for called in _called(line)]
            elif " call(" in line or " conditional(" in line or "async-start(" in line:
                pending += [(called, loops) for called in _called(line)]
    rows = [replace(row, count=count) for row, count in found.items()]
    return sorted(rows, key=lambda row: (-row.members, -row.bytes, row.kind, row.loops))


def largest_group(collectives: list[CompiledCollective]) -> int:
    """Return how many devices meet in the largest group of any; 1 if none meet."""
    return max((row.members for row in collectives), default=1)


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
    """Return the lines of each computation, and the name of that which the program enters."""
    computations, entry, lines = dict[str, list[str]](), "", list[str]()
    for line in text.splitlines():
        if match := _COMPUTATION.match(line):
            lines = computations[match[2]] = []
            entry = match[2] if match[1] else entry
        else:
            lines.append(line)
    if not entry:
        raise ValueError("The text is no compiled program: no computation is its entry.")
    return computations, entry


def _called(line: str) -> Iterator[str]:
    for match in _CALLED.finditer(line):
        yield from [match[1]] if match[1] else re.findall(r"[^%, ]+", match[2])


def _read(
    line: str, match: re.Match[str], loops: tuple[int, ...], devices: int, mesh: Mapping[str, int]
) -> CompiledCollective:
    kind = match[2]
    shapes = [_bytes(*found.groups()) for found in _SHAPE.finditer(match[1])]
    if match[3] and kind != "all-reduce":  # the operands stand before the results
        shapes = shapes[len(shapes) // 2 :]
    largest, groups = _groups(line, devices)
    return CompiledCollective(
        kind=kind,
        members=largest.shape[-1],
        groups=groups,
        axes=_axes(largest, mesh),
        bytes=sum(shapes) * (largest.shape[-1] if kind == "reduce-scatter" else 1),
        loops=loops,
        count=1,
    )


def _bytes(name: str, bits: str | None, sizes: str) -> int:
    elements = math.prod(map(int, filter(None, sizes.split(","))))
    return elements if name == "pred" else -(-elements * int(bits or 8) // 8)


def _groups(line: str, devices: int) -> tuple[Int[np.ndarray, "N members"], int]:
    """Return a largest group (of a permutation: all pairs), and how many groups there are."""
    if match := re.search(r"source_target_pairs=\{(.*?)\}(?:, |$|\s)", line):
        pairs = np.array(re.findall(r"\d+", match[1]), int).reshape(-1, 2)
        return pairs, len(pairs)
    _, found, rest = line.partition("replica_groups=")
    if found and rest.startswith("{{"):
        groups = rest[2 : rest.index("}}")].split("},{")
        longest = max(groups, key=lambda group: group.count(","))
        return np.array([longest.split(",")], int), len(groups)
    if found and rest.startswith("{}"):
        return np.arange(devices)[None], 1
    if found and (match := _IOTA.match(rest)):
        ids = _iota(match[2], match[3]).reshape(_numbers(match[1]))
        return ids[:1], len(ids)
    if found and (match := _MESH.match(rest)):
        sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", match[1])}
        along = re.findall(r"'(\w+)'(:)?", match[4])
        ids = _iota(match[2] or str(devices), match[3])
        if all(not part for _, part in along) and math.prod(sizes.values()) == ids.size == devices:
            ids = ids.reshape(tuple(sizes.values()))
            inner = [name for name, _ in along]
            order = [list(sizes).index(n) for n in (*(s for s in sizes if s not in inner), *inner)]
            ids = ids.transpose(order).reshape(-1, math.prod(sizes[n] for n in inner))
            return ids[:1], len(ids)
    raise ValueError(f"The groups of this collective are written in an unknown way: {line[:300]}")


def _iota(over: str, order: str | None) -> Int[np.ndarray, " N"]:
    """Return devices as they are counted along axes of these sizes, taken in another order."""
    ids = np.arange(math.prod(_numbers(over))).reshape(_numbers(over))
    return (ids.transpose(_numbers(order)) if order else ids).ravel()


def _numbers(listed: str) -> tuple[int, ...]:
    return tuple(map(int, listed.split(",")))


def _axes(group: Int[np.ndarray, "N members"], mesh: Mapping[str, int]) -> tuple[str, ...]:
    """Name the axes along which members of a row differ."""
    if not mesh or math.prod(mesh.values()) <= group.max():
        return ()
    places = np.unravel_index(group, tuple(mesh.values()))
    return tuple(
        name for name, place in zip(mesh, places, strict=True) if np.any(place != place[:, :1])
    )
