"""What the parts of a compiled step take: XLA's own record of its operations, by kind of work."""

import re
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import jax

PARTS = ("products", "attention", "optimizer", "messages", "memory")
"""Kinds of work: products of matrices with what their kernels do beside; attention; clipping and
AdamW; collectives with what is waited in them; everything else."""

_KERNELS = {
    "fugaku_matmul": "products",
    "fugaku_panels": "products",
    "fugaku_attention": "attention",
    "fugaku_adamw": "optimizer",
    "fugaku_sum_of_squares": "optimizer",
    "fugaku_torus": "messages",
}
_OPCODES = {
    "dot": "products",
    **dict.fromkeys(("all-gather", "all-reduce", "all-to-all"), "messages"),
    **dict.fromkeys(("collective-permute", "reduce-scatter"), "messages"),
    # What these hold is counted by itself.
    **dict.fromkeys(("call", "conditional", "while"), ""),
}
_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?([\w.-]+) = .*? ([a-z][a-z-]*)\(", re.MULTILINE)
_TARGET = re.compile(r'^\s*(?:ROOT )?%?([\w.-]+) = .*custom_call_target="(\w+)"', re.MULTILINE)


def measured_parts(text: str, call: Callable[[], object], calls: int = 3) -> dict[str, float]:
    """Measure what the parts of a step take, of this process.

    Args:
        text: the compiled step's.
        call: takes a step, and waits for its end.
        calls: of which the mean is taken.

    Returns:
        for each of `PARTS` its seconds; and `other`, what a step takes beyond their sum (the time
        between operations; less than 0 where some are done at a time).
    """
    kinds = kinds_of(text)
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        jax.profiler.start_trace(folder)
        try:
            for _ in range(calls):
                start = time.perf_counter()
                call()
                seconds.append(time.perf_counter() - start)
        finally:
            jax.profiler.stop_trace()
        parts = dict.fromkeys(PARTS, 0.0)
        for name, taken in _operations(Path(folder)):
            if kind := kinds.get(name):
                parts[kind] += taken / calls
    return {**parts, "other": statistics.mean(seconds) - sum(parts.values())}


def kinds_of(text: str) -> Mapping[str, str]:
    """Return which of `PARTS` each instruction of a compiled program is; "" if it holds others.

    Args:
        text: the program's, as `Compiled.as_text` gives it.
    """
    targets = dict(_TARGET.findall(text))
    kinds = {}
    for name, opcode in _INSTRUCTION.findall(text):
        kind = _OPCODES.get(opcode.removesuffix("-start").removesuffix("-done"), "memory")
        if target := targets.get(name):
            kind = next((k for start, k in _KERNELS.items() if target.startswith(start)), kind)
        kinds[name] = kind
    return kinds


def _operations(folder: Path) -> Iterator[tuple[str, float]]:
    """Yield the name and the seconds of each operation that XLA's threads have recorded."""
    for file in folder.rglob("*.xplane.pb"):
        for plane in jax.profiler.ProfileData.from_file(str(file)).planes:
            for line in plane.lines:
                if line.name.startswith("tf_XLA"):
                    yield from ((each.name, each.duration_ns * 1e-9) for each in line.events)
