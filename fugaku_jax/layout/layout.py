"""Where everything of a run lies: one frozen value, made once and handed to whoever needs it."""

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import AbstractMesh, Mesh, NamedSharding
from jaxtyping import PyTree

from fugaku_jax.config import Config
from fugaku_jax.data.batch import Batch
from fugaku_jax.layout.mesh import active
from fugaku_jax.layout.placement import Placement
from fugaku_jax.layout.rules import Rules
from fugaku_jax.layout.stages import Stages
from fugaku_jax.pipeline.check import check
from fugaku_jax.pipeline.schedule import Schedule, make_schedule
from fugaku_jax.pipeline.slots import Slots, plan_slots
from fugaku_jax.sections.tuning import OF_PAIRS


@dataclass(frozen=True)
class Layout:
    """A run on a mesh; `models.layout` makes it.

    Two layouts of the same configuration, mesh and rules are equal: all else follows from these.
    """

    config: Config
    """The run."""
    mesh: Mesh | AbstractMesh
    """Its devices; an abstract mesh where they need not exist."""
    rules: Rules
    """What the mesh axes carry."""
    stages: Stages = field(compare=False)
    """Which layers each stage holds."""
    structure: nnx.GraphDef[Any] = field(compare=False)
    """The model without its weights, as `nnx.split` gives it."""
    shapes: PyTree[jax.ShapeDtypeStruct] = field(compare=False)
    """The model's weights, layers in their order, split by tensor axes alone."""
    placements: PyTree[Placement] = field(compare=False)
    """Where each weight, its gradient and its optimizer state lie, as the weights are nested."""
    adapter_shapes: PyTree[jax.ShapeDtypeStruct] | None = field(default=None, compare=False)
    """Those of the adapters, if these are what is learned."""
    adapter_placements: PyTree[Placement] | None = field(default=None, compare=False)
    """Where they lie."""

    @property
    def is_lora(self) -> bool:
        """Whether the weights stay as they are, and adapters beside them are learned."""
        return self.adapter_shapes is not None

    @property
    def learned_shapes(self) -> PyTree[jax.ShapeDtypeStruct]:
        """Those of what is learned: of the weights, or of the adapters."""
        return self.adapter_shapes if self.is_lora else self.shapes

    @property
    def learned_placements(self) -> PyTree[Placement]:
        """Where what is learned lies, as it is nested."""
        return self.adapter_placements if self.is_lora else self.placements

    @functools.cached_property
    def pipeline(self) -> tuple[Schedule, Slots]:
        """The order of work in the pipeline, and where it keeps what waits; checked.

        Raises:
            InputError: the schedule does not fit the stages.
        """
        stages, mesh = self.rules.parts("stage"), self.config.mesh
        micro_batches = self.config.training.micro_batches
        schedule = make_schedule(mesh.schedule, stages, micro_batches, mesh.chunks)
        slots = plan_slots(schedule, tuple(s < mesh.recompute_stages for s in range(stages)))
        check(schedule, slots)
        return schedule, slots

    @property
    def rows(self) -> NamedSharding:
        """Where the arrays `[M, B, ...]` of a batch lie."""
        return NamedSharding(self.mesh, self.rules.spec(None, "batch", None))

    @property
    def batch(self) -> Batch:
        """Shapes, types and sharding of a batch as the loader gives it."""
        training, length = self.config.training, self.config.model.sequence_length
        rows = training.micro_batches, training.batch_size // training.micro_batches

        def array(length: int, dtype: Any = jnp.int32) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct((*rows, length), dtype, sharding=self.rows)

        weights = array(length, jnp.float32) if self.config.data.learn == "answers" else None
        segments = array(length) if self.config.data.reset_at_document else None
        reference = array(length, jnp.float32) if self.config.tuning.method in OF_PAIRS else None
        return Batch(array(length + 1), weights, segments, reference)

    def active(self) -> AbstractContextManager[None]:
        """Return a context in which JAX lays out arrays on this mesh, as `mesh.active` does."""
        return active(self.mesh)


class OnLayout:
    """A jitted function that is traced and run on its layout's mesh, whatever mesh is set."""

    def __init__(self, layout: Layout, function: Callable[..., Any], **options: Any) -> None:
        """Jit a function.

        Args:
            layout: where it runs.
            function: the function.
            options: of `jax.jit`.
        """
        self._layout, self._jitted = layout, jax.jit(function, **options)

    def __call__(self, *arguments: Any) -> Any:
        """Run it."""
        with self._layout.active():
            return self._jitted(*arguments)

    def trace(self, *arguments: Any) -> jax.stages.Traced:
        """Trace it for arguments, or for their shapes; the devices need not exist."""
        with self._layout.active():
            return self._jitted.trace(*arguments)

    def lower(self, *arguments: Any) -> jax.stages.Lowered:
        """Trace and lower it likewise, for devices that exist."""
        with self._layout.active():
            return self._jitted.lower(*arguments)
