"""Runs a pipeline schedule: one scan over the ticks of its table, each stage doing its own entry.

It runs inside a `shard_map` that is manual over the stage axes. In a tick a stage switches to what
the table says, so idle costs nothing; then neighbours exchange what they have for each other, two
by two and only where the table says that there is something. A stage therefore waits for no other
but the one whose message it needs, and the time of a step is that of the schedule rather than of
its longest ticks.

An exchange is a collective among the two neighbours alone (`axis_index_groups`), which XLA's CPU
backend runs as soon as these two have come to it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, PyTree

from fugaku_jax.sharding.schedule import Op, Schedule, edge_colours, exchange
from fugaku_jax.sharding.schedule_slots import Plan


@dataclass(frozen=True)
class StageProgram:
    """What the stages compute, of one micro-batch given by its number."""

    embed: Callable[[PyTree, Array], Array]
    """What enters the first layer, from the shared weights."""
    forward: Callable[[PyTree, Array, Array, Array], tuple[Array, PyTree]]
    """A chunk: from its weights, its layers' numbers, its input and the micro-batch to its output
    and to what `backward` needs of it."""
    backward: Callable[[PyTree, PyTree, Array], tuple[Array, PyTree]]
    """The gradients of a chunk's input and weights, from what was kept, the weights and the
    gradient of its output."""
    loss: Callable[[PyTree, Array, Array], Array]
    """The summed loss, from the shared weights and the last layer's output."""


class _Carry(NamedTuple):
    """What passes from tick to tick. Buffers have a leading axis of slots."""

    inputs: Array
    """Activations that have arrived; the last slot takes what nobody wants."""
    gradients: Array
    """Gradients that have arrived, likewise."""
    residuals: list[Array]
    """What chunks have computed and their backward passes will need: leaves of (kept, output)."""
    kept_inputs: Array
    """Inputs of chunks that will be computed again; the last slot as above."""
    message: Array
    """What the last tick has for a neighbour."""
    loss: Array
    d_weights: PyTree[Array]
    d_shared: PyTree[Array]


class _Entry(NamedTuple):
    """A stage's row of the table, or one entry of it."""

    branch: Array
    micro_batch: Array
    chunk: Array
    input_slot: Array
    gradient_slot: Array
    residual_slot: Array
    kept_input_slot: Array
    forward_arrival: Array
    gradient_arrival: Array
    active: Array
    """For each colour of edges whether this stage exchanges."""


def pipelined_gradient(
    program: StageProgram,
    schedule: Schedule,
    plan: Plan,
    weights: PyTree[Array],
    shared: PyTree[Array],
    layers: np.ndarray,
    axes: tuple[str, ...],
    scale: Float[Array, ""],
) -> tuple[Float[Array, ""], PyTree[Array], PyTree[Array]]:
    """Run a schedule and return the loss and its gradients.

    Args:
        program: what the stages compute.
        schedule: the table.
        plan: its slots.
        weights: this stage's layers, stacked chunk after chunk.
        shared: weights that the first and the last stage use.
        layers: numbers of the layers, `[stage, chunk, layer of the chunk]`.
        axes: mesh axes of the stages, all manual.
        scale: what the gradient is multiplied by.

    Returns:
        the summed loss (of the last stage; 0 elsewhere), and the gradients of the weights and of
        the shared weights, as far as this stage adds to them.
    """
    run = _Run(program, schedule, plan, weights, shared, layers, axes, scale)
    carry, _ = jax.lax.scan(run.tick, run.start(), run.rows)
    return carry.loss, carry.d_weights, carry.d_shared


class _Run:
    """One stage's part in a schedule, while it is traced."""

    def __init__(
        self,
        program: StageProgram,
        schedule: Schedule,
        plan: Plan,
        weights: PyTree[Array],
        shared: PyTree[Array],
        layers: np.ndarray,
        axes: tuple[str, ...],
        scale: Float[Array, ""],
    ) -> None:
        self.program, self.schedule, self.plan = program, schedule, plan
        self.weights, self.shared, self.scale, self.axes = weights, shared, scale, axes
        self.stage = jax.lax.axis_index(axes)
        self.numbers = jnp.asarray(layers)[self.stage]
        self.chunk_size = layers.shape[2]
        self.recompute = jnp.asarray(plan.recompute)[self.stage]
        self.colours = edge_colours(schedule.stages, wrap=schedule.chunks > 1)
        self.kept_structure: Any = None
        ops = [Op(op) for op in np.unique(schedule.op)]
        run = {Op.IDLE: self._idle, Op.FORWARD: self._forward, Op.BACKWARD: self._backward}
        self.branches = [run[op] for op in ops]
        crossing = exchange(schedule)
        active = np.stack([_touched(edges, crossing) for edges in self.colours], -1)
        tables = {
            "branch": np.searchsorted(ops, schedule.op),
            "micro_batch": schedule.micro_batch,
            "chunk": schedule.chunk,
            "input_slot": plan.input_slots,
            "gradient_slot": plan.gradient_slots,
            "residual_slot": plan.residual_slots,
            "kept_input_slot": plan.kept_input_slots,
            "forward_arrival": plan.forward_arrival,
            "gradient_arrival": plan.gradient_arrival,
            "active": active,
        }
        self.rows = _Entry(**{name: jnp.asarray(t)[self.stage] for name, t in tables.items()})

    def start(self) -> _Carry:
        """Return empty buffers and gradients of zero."""
        x, leaves = self._shapes()
        plan = self.plan

        def buffer(slots: int, like: Any) -> Array:
            # Nothing but manual axes gives no sharding.
            spec = () if like.sharding is None else like.sharding.spec
            shape = (slots, *like.shape)
            return jnp.zeros(shape, like.dtype, out_sharding=PartitionSpec(None, *spec))

        return _Carry(
            inputs=buffer(plan.n_input_slots + 1, x),
            gradients=buffer(plan.n_gradient_slots + 1, x),
            residuals=[buffer(plan.n_residual_slots, leaf) for leaf in leaves],
            kept_inputs=buffer(plan.n_kept_input_slots + 1, x),
            message=buffer(1, x)[0],
            loss=jnp.float32(0),
            d_weights=jax.tree.map(jnp.zeros_like, self.weights),
            d_shared=jax.tree.map(jnp.zeros_like, self.shared),
        )

    def tick(self, carry: _Carry, entry: _Entry) -> tuple[_Carry, None]:
        """Do the work of a tick, then exchange."""
        carry = jax.lax.switch(entry.branch, self.branches, carry, entry)
        for number, edges in enumerate(self.colours):
            carry = jax.lax.cond(
                entry.active[number], self._exchange(edges), lambda carry, _: carry, carry, entry
            )
        return carry, None

    def _idle(self, carry: _Carry, entry: _Entry) -> _Carry:
        del entry
        return carry

    def _forward(self, carry: _Carry, entry: _Entry) -> _Carry:
        x = self._input(carry.inputs, entry.input_slot, entry)
        y, leaves = self._computed(x, entry)

        def keep_all(carry: _Carry) -> _Carry:
            return carry._replace(residuals=_write(carry.residuals, leaves, entry.residual_slot))

        def keep_input(carry: _Carry) -> _Carry:
            slot, unwanted = entry.kept_input_slot, len(carry.kept_inputs) - 1
            slot = jnp.where(slot >= 0, slot, unwanted)
            return carry._replace(kept_inputs=_write(carry.kept_inputs, x, slot))

        carry = self._if_recomputing(keep_input, keep_all, carry)
        return carry._replace(message=y)

    def _backward(self, carry: _Carry, entry: _Entry) -> _Carry:
        def recomputed(carry: _Carry) -> list[Array]:
            x = self._input(carry.kept_inputs, entry.kept_input_slot, entry)
            return self._computed(x, entry)[1]

        def stored(carry: _Carry) -> list[Array]:
            return _read(carry.residuals, entry.residual_slot)

        leaves = self._if_recomputing(recomputed, stored, carry)
        kept, y = jax.tree.unflatten(self.kept_structure, leaves)

        def from_loss(total: Array, d_shared: PyTree) -> tuple[Array, Array, PyTree]:
            loss, pullback = jax.vjp(
                lambda shared, y: self.program.loss(shared, y, entry.micro_batch), self.shared, y
            )
            added, dy = pullback(self.scale)
            return total + loss, dy, jax.tree.map(jnp.add, d_shared, added)

        def from_next(total: Array, d_shared: PyTree) -> tuple[Array, Array, PyTree]:
            return total, _read(carry.gradients, jnp.maximum(entry.gradient_slot, 0)), d_shared

        last = self._is_virtual(entry, self.schedule.stages - 1, self.schedule.chunks - 1)
        loss, dy, d_shared = jax.lax.cond(last, from_loss, from_next, carry.loss, carry.d_shared)
        dx, added = self.program.backward(kept, self._of_chunk(self.weights, entry), dy)

        def into_embedding(d_shared: PyTree) -> PyTree:
            _, pullback = jax.vjp(
                lambda shared: self.program.embed(shared, entry.micro_batch), self.shared
            )
            return jax.tree.map(jnp.add, d_shared, pullback(dx)[0])

        first = self._is_virtual(entry, 0, 0)
        return carry._replace(
            message=dx,
            loss=loss,
            d_weights=self._add_to_chunk(carry.d_weights, added, entry),
            d_shared=jax.lax.cond(first, into_embedding, lambda d: d, d_shared),
        )

    def _exchange(self, edges: list[int]) -> Callable[[_Carry, _Entry], _Carry]:
        """Return what the two stages of an edge do: each sends its message to the other."""
        stages = self.schedule.stages
        groups = [[edge, (edge + 1) % stages] for edge in edges]
        alone = sorted(set(range(stages)) - {stage for group in groups for stage in group})
        # Groups have to name every stage; these pairs never meet.
        groups += [alone[i : i + 2] for i in range(0, len(alone), 2)]
        right = np.zeros(stages, np.int32)
        right[[(edge + 1) % stages for edge in edges]] = 1

        def swap(carry: _Carry, entry: _Entry) -> _Carry:
            side = jnp.asarray(right)[self.stage]
            if len(alone) % 2:
                # A gather wants groups of one size, a sum does not.
                mine = jnp.stack([carry.message * (side == 0), carry.message * (side == 1)])
                both = jax.lax.psum(mine, self.axes, axis_index_groups=groups)
            else:
                both = jax.lax.all_gather(
                    carry.message[None], self.axes, axis_index_groups=groups, tiled=True
                )
            got = jax.lax.dynamic_index_in_dim(both, 1 - side, keepdims=False)
            # From the left come activations, from the right gradients; if anything comes.
            forward, gradient = entry.forward_arrival, entry.gradient_arrival
            input_slot = jnp.where((side == 1) & (forward >= 0), forward, len(carry.inputs) - 1)
            gradient_slot = jnp.where(
                (side == 0) & (gradient >= 0), gradient, len(carry.gradients) - 1
            )
            return carry._replace(
                inputs=_write(carry.inputs, got, input_slot),
                gradients=_write(carry.gradients, got, gradient_slot),
            )

        return swap

    def _computed(self, x: Array, entry: _Entry) -> tuple[Array, list[Array]]:
        """Return a chunk's output, and all that its backward pass needs as arrays alone.

        What is kept holds traced code in its structure, which no two traces share; the arrays are
        the same in all, so those pass from tick to tick and the last structure serves for all.
        """
        weights = self._of_chunk(self.weights, entry)
        numbers = _read(self.numbers, entry.chunk)
        y, kept = self.program.forward(weights, numbers, x, entry.micro_batch)
        leaves, self.kept_structure = jax.tree.flatten((kept, y))
        return y, leaves

    def _input(self, buffer: Array, slot: Array, entry: _Entry) -> Array:
        """Return a chunk's input: the embedded tokens, or what waits in a slot."""
        return jax.lax.cond(
            self._is_virtual(entry, 0, 0),
            lambda: self.program.embed(self.shared, entry.micro_batch),
            lambda: _read(buffer, jnp.maximum(slot, 0)),
        )

    def _is_virtual(self, entry: _Entry, stage: int, chunk: int) -> Array:
        return (self.stage == stage) & (entry.chunk == chunk)

    def _if_recomputing(self, yes: Callable, no: Callable, carry: _Carry) -> Any:
        if all(self.plan.recompute) or not any(self.plan.recompute):
            return (yes if self.plan.recompute[0] else no)(carry)
        return jax.lax.cond(self.recompute, yes, no, carry)

    def _of_chunk(self, stacked: PyTree, entry: _Entry) -> PyTree:
        if self.schedule.chunks == 1:
            return stacked
        first, size = entry.chunk * self.chunk_size, self.chunk_size
        return jax.tree.map(lambda a: jax.lax.dynamic_slice_in_dim(a, first, size), stacked)

    def _add_to_chunk(self, stacked: PyTree, added: PyTree, entry: _Entry) -> PyTree:
        if self.schedule.chunks == 1:
            return jax.tree.map(jnp.add, stacked, added)
        first = entry.chunk * self.chunk_size
        total = jax.tree.map(jnp.add, self._of_chunk(stacked, entry), added)
        return jax.tree.map(
            lambda a, part: jax.lax.dynamic_update_slice_in_dim(a, part, first, 0), stacked, total
        )

    def _shapes(self) -> tuple[Any, list[Any]]:
        """Return the types of a chunk's input and of what is kept of it."""
        entry = jax.tree.map(lambda row: row[0], self.rows)
        x = jax.eval_shape(lambda: self.program.embed(self.shared, entry.micro_batch))
        _, leaves = jax.eval_shape(lambda x: self._computed(x, entry), x)
        return x, leaves


def _touched(edges: list[int], crossing: np.ndarray) -> np.ndarray:
    """Return for each stage and tick whether it is at either end of an edge in use."""
    touched = np.zeros_like(crossing)
    for edge in edges:
        touched[edge] |= crossing[edge]
        touched[(edge + 1) % len(crossing)] |= crossing[edge]
    return touched


def _read(buffer: PyTree[Array], slot: Array) -> Any:
    return jax.tree.map(lambda b: jax.lax.dynamic_index_in_dim(b, slot, keepdims=False), buffer)


def _write(buffer: PyTree[Array], value: PyTree[Array], slot: Array) -> Any:
    return jax.tree.map(
        lambda b, v: jax.lax.dynamic_update_index_in_dim(b, v, slot, 0), buffer, value
    )
