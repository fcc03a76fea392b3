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
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree, Shaped

from fugaku_jax.pipeline.buffers import empty, read, write
from fugaku_jax.pipeline.carry import Carry, Entry, Given, when
from fugaku_jax.pipeline.neighbours import swap_messages, touched
from fugaku_jax.pipeline.schedule import Op, Schedule, edge_colours, edges_in_use
from fugaku_jax.pipeline.slots import Slots
from fugaku_jax.pipeline.stack import LayerRange
from fugaku_jax.pipeline.stage_program import StageProgram


class Executor:
    """One stage's part in a schedule, while it is traced."""

    def __init__(
        self,
        program: StageProgram,
        schedule: Schedule,
        plan: Slots,
        weights: PyTree[Float[Array, "L ..."]],
        shared: PyTree[Float[Array, "..."]],
        layers: Int[np.ndarray, "S C N"],
        axes: tuple[str, ...],
        scale: Float[Array, ""],
    ) -> None:
        """Take what the stage has; all shapes are local.

        Args:
            program: what the stages compute.
            schedule: the table.
            plan: its slots.
            weights: this stage's layers, stacked chunk after chunk.
            shared: weights that the first and the last stage use.
            layers: numbers of the layers, of each stage and chunk; -1 fills up.
            axes: mesh axes of the stages, all manual.
            scale: what the gradient is multiplied by.
        """
        self.program, self.schedule, self.plan = program, schedule, plan
        self.weights, self.shared, self.scale, self.axes = weights, shared, scale, axes
        self.stage = jax.lax.axis_index(axes)
        self.layers = layers
        self.recomputed = np.array(plan.recompute)
        self.colours = edge_colours(schedule.stages, wrap=schedule.chunks > 1)
        self.structure: Any = None
        run = {
            Op.FORWARD: self._forward,
            Op.BACKWARD: self._backward,
            Op.BACKWARD_INPUT: self._backward_input,
            Op.BACKWARD_WEIGHT: self._backward_weight,
        }
        self.work = {op: do for op, do in run.items() if np.any(schedule.op == op)}
        crossing = edges_in_use(schedule)
        active = np.stack([touched(edges, crossing) for edges in self.colours], -1)
        tables = {
            "op": schedule.op,
            "micro_batch": schedule.micro_batch,
            "chunk": schedule.chunk,
            "input_slot": plan.input_slots,
            "gradient_slot": plan.gradient_slots,
            "residual_slot": plan.residual_slots,
            "kept_input_slot": plan.kept_input_slots,
            "weight_slot": plan.weight_slots,
            "forward_arrival": plan.forward_arrival,
            "gradient_arrival": plan.gradient_arrival,
            "active": active,
        }
        self.rows = Entry(**{name: _row(t, self.stage) for name, t in tables.items()})

    def run(self) -> Carry:
        """Run the schedule; return the gradients and the losses, among what else is carried."""
        return jax.lax.scan(self._tick, self._start(), self.rows)[0]

    def _start(self) -> Carry:
        """Return empty buffers and gradients of zero."""
        plan, length = self.plan, self.layers.shape[2]
        slots = plan.n_residual_slots + bool(self.recomputed.any())
        given = self._given(jax.tree.map(lambda row: row[0], self.rows))
        x = jax.eval_shape(lambda: self.program.embed(given.shared, given.entry.micro_batch))
        residuals = self.program.residual_types(
            given.weights, self._chunk(given), x, given.entry.micro_batch
        )
        deferred = []
        if plan.n_weight_slots:
            deferred = self.program.deferred_types(residuals, given.weights, x)
        _, losses = jax.eval_shape(self.program.loss, given.shared, x, given.entry.micro_batch)

        return Carry(
            inputs=empty(plan.n_input_slots + 1, x),
            gradients=empty(plan.n_gradient_slots + 1, x),
            residuals=[empty(slots * length, leaf) for leaf in jax.tree.leaves(residuals)],
            outputs=empty(slots, x),
            kept_inputs=empty(plan.n_kept_input_slots + 1, x),
            deferred=[empty(plan.n_weight_slots * length, leaf) for leaf in deferred],
            message=empty(1, x)[0],
            loss=jnp.float32(0),
            losses=None if losses is None else empty(self.schedule.micro_batches, losses),
            d_weights=self.program.zero_gradients(self.weights),
            d_shared=jax.tree.map(jnp.zeros_like, self.shared),
        )

    def _tick(self, carry: Carry, entry: Entry) -> tuple[Carry, None]:
        """Do the work of a tick, then exchange."""
        given = self._given(entry)
        for op, do in self.work.items():
            carry = when(entry.op == op, do, carry, given)
        for number, edges in enumerate(self.colours):
            carry = when(entry.active[number], self._exchange(edges), carry, given)
        return carry, None

    def _forward(self, carry: Carry, given: Given) -> Carry:
        entry = given.entry
        x = self._input(carry.inputs, entry.input_slot, given)
        if self.recomputed.any():
            slot, unwanted = entry.kept_input_slot, len(carry.kept_inputs) - 1
            slot = jnp.where(slot >= 0, slot, unwanted)
            carry = carry._replace(kept_inputs=write(carry.kept_inputs, x, slot))
        carry = self._compute(carry, x, given)
        return carry._replace(message=read(carry.outputs, self._slot(entry)))

    def _backward(self, carry: Carry, given: Given) -> Carry:
        carry, dy = self._gradient_of_output(self._again(carry, given), given)
        dx, d_weights = self.program.backward(
            *self._residuals(carry, given), self._chunk(given), dy, carry.d_weights
        )
        return self._sent_back(carry._replace(d_weights=d_weights), dx, given)

    def _backward_input(self, carry: Carry, given: Given) -> Carry:
        carry, dy = self._gradient_of_output(self._again(carry, given), given)
        row = given.entry.weight_slot * self.layers.shape[2]
        dx, deferred = self.program.backward_input(
            *self._residuals(carry, given), self._chunk(given), dy, carry.deferred, row
        )
        return self._sent_back(carry._replace(deferred=deferred), dx, given)

    def _backward_weight(self, carry: Carry, given: Given) -> Carry:
        carry = self._again(carry, given)
        row = given.entry.weight_slot * self.layers.shape[2]
        d_weights = self.program.backward_weight(
            *self._residuals(carry, given),
            self._chunk(given),
            jax.typeof(carry.message),
            carry.deferred,
            row,
            carry.d_weights,
        )
        return carry._replace(d_weights=d_weights)

    def _again(self, carry: Carry, given: Given) -> Carry:
        """Compute a chunk again, if this stage has kept no more than its input."""

        def compute(carry: Carry, given: Given) -> Carry:
            x = self._input(carry.kept_inputs, given.entry.kept_input_slot, given)
            return self._compute(carry, x, given)

        if not self.recomputed.any():
            return carry
        return when(_row(self.recomputed, self.stage), compute, carry, given)

    def _gradient_of_output(self, carry: Carry, given: Given) -> tuple[Carry, Array]:
        """Return the gradient of a chunk's output, which at the last is that of the loss."""

        def from_loss(so_far: tuple, given: Given) -> tuple[Array, Any, Array, PyTree]:
            (total, losses, y, d_shared), m = so_far, given.entry.micro_batch
            loss, pullback, each = jax.vjp(
                lambda shared, y: self.program.loss(shared, y, m), given.shared, y, has_aux=True
            )
            added, dy = pullback(self.scale)
            losses = write(losses, each, m)
            return total + loss, losses, dy, jax.tree.map(jnp.add, d_shared, added)

        entry = given.entry
        last = self._is_virtual(entry, self.schedule.stages - 1, self.schedule.chunks - 1)
        waiting = read(carry.gradients, jnp.maximum(entry.gradient_slot, 0))
        y = read(carry.outputs, self._slot(entry))
        dy = jnp.where(last, y, waiting)
        so_far = (carry.loss, carry.losses, dy, carry.d_shared)
        loss, losses, dy, d_shared = when(last, from_loss, so_far, given)
        return carry._replace(loss=loss, losses=losses, d_shared=d_shared), dy

    def _sent_back(self, carry: Carry, dx: Array, given: Given) -> Carry:
        """Note the gradient of a chunk's input: at the first it is that of the embedding."""

        def into_embedding(d_shared: PyTree, given: Given) -> PyTree:
            _, pullback = jax.vjp(
                lambda shared: self.program.embed(shared, given.entry.micro_batch), given.shared
            )
            return jax.tree.map(jnp.add, d_shared, pullback(dx)[0])

        first = self._is_virtual(given.entry, 0, 0)
        d_shared = when(first, into_embedding, carry.d_shared, given)
        return carry._replace(message=dx, d_shared=d_shared)

    def _exchange(self, edges: list[int]) -> Callable[[Carry, Given], Carry]:
        """Return what the two stages of an edge do: each sends its message to the other."""
        both_sides = self.schedule.stages == 2

        def swap(carry: Carry, given: Given) -> Carry:
            entry = given.entry
            got, from_left = swap_messages(carry.message, edges, self.schedule.stages, self.axes)
            # From the left come activations, from the right gradients; if anything comes.
            # Of two stages each is on both sides of the other, whose message is one or the other.
            from_left, from_right = (both_sides | side for side in (from_left, ~from_left))
            forward, gradient = entry.forward_arrival, entry.gradient_arrival
            input_slot = jnp.where(from_left & (forward >= 0), forward, len(carry.inputs) - 1)
            gradient_slot = jnp.where(
                from_right & (gradient >= 0), gradient, len(carry.gradients) - 1
            )
            return carry._replace(
                inputs=write(carry.inputs, got, input_slot),
                gradients=write(carry.gradients, got, gradient_slot),
            )

        return swap

    def _given(self, entry: Entry) -> Given:
        return Given(self.weights, self.shared, entry)

    def _chunk(self, given: Given) -> LayerRange:
        """Return a chunk; how many layers it has is known beforehand if all have as many."""
        length = self.layers.shape[2]
        counts = (self.layers >= 0).sum(-1).astype(np.int32)
        chunk = given.entry.chunk
        count = length if np.all(counts == length) else _row(counts, self.stage)[chunk]
        return LayerRange(chunk * length, count, _row(self.layers, self.stage)[chunk])

    def _slot(self, entry: Entry) -> Array:
        """Return where `residuals` and `outputs` of a chunk are: where recomputing, in the last."""
        if not self.recomputed.any():
            return entry.residual_slot
        again = _row(self.recomputed, self.stage)
        return jnp.where(again, self.plan.n_residual_slots, entry.residual_slot)

    def _compute(self, carry: Carry, x: Array, given: Given) -> Carry:
        """Run a chunk forward.

        The tree of what is noted holds traced code, which no two traces share; so its leaves pass
        from tick to tick, and the last structure serves for all.
        """
        slot, chunk = self._slot(given.entry), self._chunk(given)
        row = slot * self.layers.shape[2]
        y, residuals = self.program.forward(
            given.weights, chunk, x, given.entry.micro_batch, carry.residuals, row
        )
        leaves, self.structure = jax.tree.flatten(residuals)
        return carry._replace(residuals=leaves, outputs=write(carry.outputs, y, slot))

    def _residuals(self, carry: Carry, given: Given) -> tuple[PyTree, Array, PyTree]:
        """Return the residuals of a chunk, their row, and the weights."""
        row = self._slot(given.entry) * self.layers.shape[2]
        return jax.tree.unflatten(self.structure, carry.residuals), row, given.weights

    def _input(self, buffer: Array, slot: Array, given: Given) -> Array:
        """Return a chunk's input: the embedded tokens, or what waits in a slot."""
        waiting = read(buffer, jnp.maximum(slot, 0))

        def embed(_: Array, given: Given) -> Array:
            return self.program.embed(given.shared, given.entry.micro_batch)

        return when(self._is_virtual(given.entry, 0, 0), embed, waiting, given)

    def _is_virtual(self, entry: Entry, stage: int, chunk: int) -> Array:
        return (self.stage == stage) & (entry.chunk == chunk)


def _row(table: Shaped[np.ndarray, "S ..."], stage: Int[Array, ""]) -> Shaped[Array, "..."]:
    return jnp.asarray(table)[stage]
