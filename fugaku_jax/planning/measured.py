"""What `launch/bench.py kernels --json` measured on a node, as the step-time model reads it."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fugaku_jax.errors import InputError
from fugaku_jax.json_file import read_json
from fugaku_jax.planning.step_work import Matmul

_PRECISIONS = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
_PRODUCT = re.compile(r"(float32|bfloat16|float16) (\d+)x(\d+)x(\d+) [nt]{2}")
_ATTENTION = re.compile(r"(float32|bfloat16|float16) \d+x(\d+)x\d+x(\d+)")
_NEAREST = 3  # measured products that a speed is taken from


@dataclass(frozen=True)
class Measured:
    """Speeds of a node, or of as many cores as they were measured on."""

    products: Mapping[str, tuple[tuple[tuple[float, float, float], float], ...]] = field(hash=False)
    """By precision: logarithms of rows, depth and columns, and operations a second."""
    attention: Mapping[str, tuple[tuple[int, float], ...]] = field(hash=False)
    """By precision: the width of a head, and operations a second."""
    stream: float | None
    """Bytes a second that clipping and AdamW move; None if that was not measured."""
    peak: float
    """Multiply-adds on registers alone, as operations a second."""

    def product_speed(self, product: Matmul, precision: str) -> float | None:
        """Return operations a second of the nearest measured products, nearer ones counting more.

        None where none of the precision was measured.
        """
        known = self.products.get(precision)
        if not known:
            return None
        at = tuple(map(math.log, (product.rows, product.depth, product.columns)))
        near = sorted((math.dist(at, place), speed) for place, speed in known)[:_NEAREST]
        weights = [1 / (distance**2 + 1e-4) for distance, _ in near]
        pace = sum(w / speed for w, (_, speed) in zip(weights, near, strict=True))
        return sum(weights) / pace

    def attention_speed(self, head_dim: int, precision: str) -> float | None:
        """Return operations a second of attention with the nearest width of a head, or None."""
        known = self.attention.get(precision)
        if not known:
            return None
        return min(known, key=lambda each: abs(math.log(each[0] / head_dim)))[1]

    def shared(self, parts: int) -> "Measured":
        """Return the speeds of one of so many equal parts of what was measured."""

        def part(rows: tuple) -> tuple:
            return tuple((what, speed / parts) for what, speed in rows)

        return Measured(
            {kind: part(rows) for kind, rows in self.products.items()},
            {kind: part(rows) for kind, rows in self.attention.items()},
            self.stream and self.stream / parts,
            self.peak / parts,
        )


def read_measured(path: Path) -> Measured:
    """Read what `launch/bench.py kernels --json` printed last.

    Raises:
        InputError: the file cannot be read, or a part that is needed is missing; it says which.
    """
    return measured_of(read_json(path), str(path))


def measured_of(figures: Mapping[str, Any], source: str) -> Measured:
    """Turn the object that `benchmarks.kernels.compare` returns into speeds.

    Args:
        figures: the object.
        source: what errors call it.

    Raises:
        InputError: a part is missing or of another form.
    """
    try:
        peak = 1e9 * float(figures["machine"]["peak_gflops"])
        products: dict[str, list] = {}
        for row in figures.get("products", ()):
            kind, *sizes = _matched(_PRODUCT, row).groups()
            place = tuple(math.log(int(size)) for size in sizes)
            products.setdefault(_PRECISIONS[kind], []).append((place, 1e9 * float(row["gflops"])))
        attention: dict[str, list] = {}
        for row in figures.get("attention", ()):
            kind, _, width = _matched(_ATTENTION, row).groups()
            speed = 1e9 * float(row["gflops"])
            attention.setdefault(_PRECISIONS[kind], []).append((int(width), speed))
        streams = [1e9 * float(row["gigabytes_per_second"]) for row in figures.get("adamw", ())]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{source}: is not what `launch/bench.py kernels --json` prints: {error!r}."
        ) from None
    return Measured(
        {kind: tuple(rows) for kind, rows in products.items()},
        {kind: tuple(rows) for kind, rows in attention.items()},
        streams[0] if streams else None,
        peak,
    )


def _matched(pattern: re.Pattern[str], row: Mapping[str, Any]) -> re.Match[str]:
    match = pattern.fullmatch(str(row["contender"]))
    if match is None:
        raise ValueError(f"{row['contender']!r} is no such operation")
    return match
