"""How fast one device computes and moves data: modelled from a machine's limits, or measured there.

A product takes the time of its multiply-adds in whole tiles at a share of the peak, and that of the
bytes that blocking moves: A read, B read and packed, C read and written once for every block of the
sum (`kernels/native/matmul.h`; Goto and van de Geijn, "Anatomy of High-Performance Matrix
Multiplication", 2008). Both are added: nothing is taken to hide the other.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from fugaku_jax.planning.measured import Measured
from fugaku_jax.planning.step_work import WIDTHS, Matmul, ScoreWork, Work
from fugaku_jax.tofu.machine import Machine

BLOCK = 448
"""Terms of a sum that a tile adds up before its sums go back to C (`matmul.h`, MAX_STEPS)."""
TILE_ROWS = 8
"""Rows of C in a tile, on A64FX (`isa/a64fx.h`)."""
PACKING = 0.8
"""The share of the memory's bandwidth that a product's operands pass at, assumed."""
TILE_BYTES = 3 * 64
"""Bytes of a row of a tile: three registers of 512 bits."""


@dataclass(frozen=True)
class Software:
    """What a program makes of a machine's limits. Every field is an assumption that has a name."""

    product: Mapping[str, float] = field(hash=False)
    """By precision, the share of its peak at which a tile's loop multiplies."""
    softmax_terms: float
    """What a weight of attention costs beside its products, as further terms of one of them."""
    stream: float
    """The share of the memory's bandwidth that everything else gets."""
    spanning: float
    """What is left of that where one process works on several core groups."""
    links: float
    """The share of the network model's speed that collectives of a micro-batch reach."""
    gradient_links: float = 1.0
    """That which sums after the last micro-batch reach."""
    overlap: float = 0.0
    """The share of the gradients' sums that goes on while something is computed."""
    square_scores: bool = False
    """Whether attention makes the whole square of scores in memory, as plain PyTorch does."""
    score_passes: float = 0.0
    """Times that the square passes the memory, there and back each, if so."""


@dataclass(frozen=True)
class Rates:
    """Speeds of a device."""

    peak: Mapping[str, float] = field(hash=False)
    """Operations a second by precision, of all its cores."""
    memory: float
    """Bytes a second, of all its cores."""
    groups: int
    """Core groups that it works on."""
    software: Software
    """What is made of these."""
    measured: Measured | None = None
    """What was measured instead, on as many cores."""

    @property
    def stream(self) -> float:
        """Bytes a second that elementwise functions get."""
        if self.measured and self.measured.stream:
            return self.measured.stream
        spanning = self.software.spanning if self.groups > 1 else 1.0
        return self.memory * self.software.stream * spanning

    def product_seconds(self, product: Matmul, precision: str) -> float:
        """Return the seconds of a product; modelled, or from the nearest that were measured."""
        if self.measured and (speed := self.measured.product_speed(product, precision)):
            return product.operations / speed
        width = WIDTHS[precision]
        columns = TILE_BYTES // (width if precision == "fp16" else 4)
        m = -(-product.rows // TILE_ROWS) * TILE_ROWS
        n = -(-product.columns // columns) * columns
        at_work = (
            2 * m * n * product.depth / (self.peak[precision] * self.software.product[precision])
        )
        blocks = math.ceil(product.depth / BLOCK)
        read = width * product.depth * (product.rows + 2 * product.columns)
        summed = 4 * product.rows * product.columns * (2 * blocks - 1)
        return at_work + (read + summed) / (self.memory * PACKING)

    def attention_seconds(self, scores: ScoreWork, products: int, precision: str) -> float:
        """Return the seconds of so many products of attention, and of its softmax."""
        if self.measured and (speed := self.measured.attention_speed(scores.head_dim, precision)):
            return 2 * scores.count * scores.head_dim * products / speed
        software = self.software
        count = scores.square if software.square_scores else scores.count
        terms = products * scores.head_dim + software.softmax_terms
        # Attention multiplies in fp32 whatever its operands are.
        return 2 * count * terms / (self.peak["fp32"] * software.product["fp32"])

    def seconds(self, work: Work, precision: str) -> dict[str, float]:
        """Return the seconds of a piece of work on this device by kind, messages left out."""
        moved = work.stream_bytes / self.stream
        attention = 0.0
        if work.scores:
            attention = self.attention_seconds(work.scores, work.score_products, precision)
            if self.software.square_scores:
                passed = self.software.score_passes * work.scores.square * WIDTHS[precision]
                moved += passed / self.stream
        products = sum((self.product_seconds(p, precision) for p in work.products), 0.0)
        return {"products": products, "attention": attention, "memory": moved}


def device_rates(
    machine: Machine, local: int, software: Software, measured: Measured | None = None
) -> Rates:
    """Return the rates of one device of a machine's node.

    Args:
        machine: whose.
        local: devices that share a node's cores and memory evenly.
        software: what is made of it.
        measured: what was measured on a whole node.
    """
    node = machine.node
    peaks = node.peak_flops
    by_precision = {"fp32": peaks.fp32, "bf16": peaks.bf16, "fp16": peaks.fp16}
    return Rates(
        peak={precision: peak / local for precision, peak in by_precision.items()},
        memory=node.memory_bytes_per_second / local,
        groups=-(-node.core_groups // local),
        software=software,
        measured=measured.shared(local) if measured else None,
    )
