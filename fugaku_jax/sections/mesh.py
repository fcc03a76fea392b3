"""How devices share the work, as a recipe gives it."""

from dataclasses import dataclass
from typing import Literal

from fugaku_jax.sections.checks import require, require_listed, require_positive


@dataclass(frozen=True)
class MeshConfig:
    """How many devices share the work, and how; -1 takes what the others leave."""

    data: int = -1
    """Replicas, each with its part of every batch."""
    tensor: int = 1
    """Devices that share the heads, the feed-forward layer and the vocabulary."""
    context: int = 1
    """Devices that share a sequence, passing keys and values round a ring."""
    pipeline: int = 1
    """Stages that share the layers."""
    shape: str = ""
    """Nodes of a torus: a job's `48x6x48`, folded to six dimensions, or six sizes, those of
    x y z a b c. Empty where the machine is no torus."""
    local: int = 1
    """Devices of one node, core groups for instance. They are among the tensor devices, so that
    what these say to each other first stays inside the node."""
    sequence_parallel: bool = False
    """Whether the tensor devices share the positions between their products (norms, dropout)."""
    weights: Literal["replicated", "zero1", "fsdp"] = "replicated"
    """Among replicas: everything `replicated`; the optimizer's state split (`zero1`); or weights,
    gradients and state split (`fsdp`), each layer gathered when it is its turn."""
    schedule: Literal["gpipe", "1f1b", "interleaved", "zero_bubble"] = "1f1b"
    """Order of work in the pipeline."""
    chunks: int = 1
    """Runs of layers a stage holds; more than one with `interleaved` only."""
    layers: tuple[int, ...] = ()
    """Layers of each stage (of each run, with chunks, in the order of the layers); as even as can
    be if not given."""
    recompute_stages: int = 0
    """First stages that keep only their inputs and recompute in the backward pass."""
    collective: Literal["torus", "flat"] = "torus"
    """How gradients are summed: by messages of our own to neighbours on the torus, in parts that go
    round its axes in different orders, while layers compute (`torus`; where that cannot be, flat);
    or by XLA's collectives over all axes at once (`flat`)."""

    def __post_init__(self) -> None:
        for name in ("data", "tensor", "context", "pipeline"):
            value = getattr(self, name)
            require(value == -1 or value > 0, f"mesh.{name}", value, "greater than 0, or -1")
        require_positive(self, "mesh", "chunks", "local")
        require_listed(self, "mesh", "weights", "schedule", "collective")
        require(
            self.tensor == -1 or self.tensor % self.local == 0,
            "mesh.local",
            self.local,
            f"a divisor of mesh.tensor, {self.tensor}",
        )
        require(
            (self.chunks > 1) == (self.schedule == "interleaved"),
            "mesh.chunks",
            self.chunks,
            "2 or more with the interleaved schedule, and 1 with any other",
        )
        require(
            self.recompute_stages >= 0, "mesh.recompute_stages", self.recompute_stages, "at least 0"
        )
        require(all(n > 0 for n in self.layers), "mesh.layers", self.layers, "greater than 0 each")
