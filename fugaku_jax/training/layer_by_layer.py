"""Applies an optax transformation to the parameters as a run's state has them.

The layers lie stacked there, in the order in which stages store them. What is outside of them lies
at the ends of a pipeline, and on meshes that need it tables have rows that the model has not. A
transformation may look at whole matrices (muon) or at their rows and columns (adafactor), so it is
shown each layer by itself, and as one more what is outside of them, as the model has it.
"""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, PyTree

from fugaku_jax.layout.ends import on_all_stages
from fugaku_jax.layout.layout import Layout
from fugaku_jax.layout.placement import Placement

OF_VOCABULARY = ("tokens", "output")
"""Parameters whose rows are those of the vocabulary."""

Memory = dict[str, Any]
"""What a transformation remembers: of the `blocks`, stacked as these are, and of the `rest`."""


@dataclass(frozen=True)
class LayerByLayer:
    """An optax transformation over stacked layers.

    It works on arrays of the whole mesh, over whose axes JAX must be free to share the work:
    inside `jax.sharding.auto_axes`.
    """

    layout: Layout
    transformation: optax.GradientTransformation
    """What is done to each layer, and to the rest."""

    def init(self, params: PyTree[Float[Array, "..."]]) -> Memory:
        """Return what it remembers before the first update."""
        init = self.transformation.init
        return {"blocks": jax.vmap(init)(params["blocks"]), "rest": init(self._rest(params))}

    def update(
        self,
        updates: PyTree[Float[Array, "..."]],
        state: Memory,
        params: PyTree[Float[Array, "..."]],
        *,
        learning_rate: Float[Array, ""],
    ) -> tuple[PyTree[Float[Array, "..."]], Memory]:
        """Turn gradients into what is added to the parameters, as optax does."""
        transform = optax.with_extra_args_support(self.transformation).update

        def one(gradients: PyTree, memory: Any, parameters: PyTree) -> tuple[PyTree, Any]:
            return transform(gradients, memory, parameters, learning_rate=learning_rate)

        blocks, of_blocks = jax.vmap(one)(updates["blocks"], state["blocks"], params["blocks"])
        rest, of_rest = one(self._rest(updates), state["rest"], self._rest(params))
        added = {"blocks": jax.tree.map(self._of_layers, blocks)} | jax.tree.map(
            self._at_ends, rest, {name: params[name] for name in rest}
        )
        return added, {"blocks": of_blocks, "rest": of_rest}

    def apply(
        self,
        parameters: PyTree[Float[Array, "..."]],
        memory: Memory,
        gradients: PyTree[Float[Array, "..."]],
        factor: Float[Array, ""],
        apply: Bool[Array, ""],
        learning_rate: Float[Array, ""],
    ) -> tuple[PyTree[Float[Array, "..."]], Memory]:
        """Update all parameters of the mesh, each device those of which it has the gradient.

        Args:
            gradients: shaped as the parameters; they lie as the optimizer's state does.
            factor: what every gradient is multiplied by first.
            apply: if false, parameters and memory stay as they are.
            learning_rate: rate of this step.

        Returns:
            the new parameters and memory, which lie as they did.
        """
        where, mesh = self.layout.learned_placements, self.layout.mesh

        def update(parameters: PyTree, memory: Memory, gradients: PyTree, *scalars: Array) -> Any:
            factor, apply, learning_rate = scalars
            gradients = jax.tree.map(lambda x: factor * x, gradients)
            own = jax.tree.map(
                lambda x, p: jax.lax.with_sharding_constraint(x, p.spec(state=True)),
                parameters,
                where,
            )
            updates, new = self.update(gradients, memory, own, learning_rate=learning_rate)
            return jax.tree.map(
                lambda new, old: jnp.where(apply, new, old),
                (optax.apply_updates(own, updates), new),
                (own, memory),
            )

        lie = (
            jax.tree.map(lambda p: p.spec(state=False), where),
            jax.tree.map(lambda p: p.spec(state=True), self.placements(where)),
        )
        on_mesh: Any = jax.sharding.auto_axes(update, axes=mesh.axis_names, out_sharding=lie)
        return on_mesh(parameters, memory, gradients, factor, apply, learning_rate)

    def placements(self, where: PyTree[Placement]) -> Memory:
        """Return where each array of the memory lies, given where the parameters do.

        What is shaped as a parameter lies as AdamW's moments of it. Of all else the layers' part
        lies with their stages, and the rest everywhere.
        """
        memory, shapes = self.memory_shapes(), self._shapes()
        rules, model = self.layout.rules, self.layout.config.model
        rest = {name: part for name, part in where.items() if name != "blocks"}
        rest = jax.tree.map(on_all_stages, rest)
        if model.padded_vocab_size % rules.parts("vocab"):
            uncut = PartitionSpec(None, None)
            for name in rest.keys() & set(OF_VOCABULARY):
                rest[name] = {"table": replace(rest[name]["table"], explicit=uncut)}
        stages = tuple((axis, 0) for axis in rules.pipeline)
        return {
            "blocks": _beside(where["blocks"], shapes["blocks"], memory["blocks"], stages),
            "rest": _beside(rest, jax.eval_shape(self._rest, shapes), memory["rest"], ()),
        }

    def memory_shapes(self) -> Memory:
        """Return the shapes and types of what it remembers."""
        return jax.eval_shape(self.init, self._shapes())

    def _shapes(self) -> PyTree[jax.ShapeDtypeStruct]:
        """Return the shapes of the parameters as the state has them."""
        slots = self.layout.stages.layers.size

        def one(path: tuple, x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
            first = slots if path[0].key == "blocks" else self._places * x.shape[0]
            return jax.ShapeDtypeStruct((first, *x.shape[1:]), x.dtype)

        return jax.tree.map_with_path(one, self.layout.learned_shapes)

    @property
    def _places(self) -> int:
        """How many places, of a stage each, the arrays outside of the layers have."""
        return self.layout.rules.parts("stage")

    def _rest(self, tree: PyTree[Float[Array, "..."]]) -> PyTree[Float[Array, "..."]]:
        """Return what lies outside of the layers as the model has it."""
        rows, places = self.layout.config.model.padded_vocab_size, self._places
        rest = {name: part for name, part in tree.items() if name != "blocks"}
        rest = jax.tree.map(lambda x: x[: len(x) // places], rest)
        for name in rest.keys() & set(OF_VOCABULARY):
            rest[name] = {"table": rest[name]["table"][:rows]}
        return rest

    def _at_ends(self, x: Float[Array, "..."], like: Float[Array, "..."]) -> Float[Array, "..."]:
        """Undo `_rest` for an array that the state has in the shape of another."""
        rows = len(like) // self._places
        if len(x) != rows:
            x = jnp.pad(x, ((0, rows - len(x)), *[(0, 0)] * (x.ndim - 1)))
        if self._places == 1:
            return x
        return jnp.concatenate([x, *[jnp.zeros_like(x)] * (self._places - 2), x])

    def _of_layers(self, updates: Float[Array, "slots ..."]) -> Float[Array, "slots ..."]:
        """Leave slots that hold no layer as they are."""
        if self.layout.stages.is_plain:
            return updates
        is_layer = jnp.asarray(self.layout.stages.layers.ravel() >= 0)
        return jnp.where(jnp.expand_dims(is_layer, tuple(range(1, updates.ndim))), updates, 0)


def _beside(
    where: PyTree[Placement],
    shapes: PyTree[jax.ShapeDtypeStruct],
    memory: Any,
    stages: tuple[tuple[str, int], ...],
) -> Any:
    """Place a memory beside the parameters that it is of.

    What is a parameter's is told by its path, which ends as the parameter's does, and by its shape;
    optax's `tree.map_params` gives no parameter where a transformation leaves some out, as muon
    does.

    Args:
        where: placements of the parameters.
        shapes: of the parameters.
        memory: shapes.
        stages: (axis, dimension) pairs that split what is no parameter's.
    """
    names = jax.tree_util.keystr
    known = {
        names(path): (x.shape, placement)
        for (path, x), placement in zip(
            jax.tree.leaves_with_path(shapes), jax.tree.leaves(where), strict=True
        )
    }

    def one(path: tuple, x: jax.ShapeDtypeStruct) -> Placement:
        for start in range(len(path)):
            shape, placement = known.get(names(path[start:]), (None, None))
            if placement and shape == x.shape:
                return placement
        return Placement(PartitionSpec(*[None] * x.ndim), stages, (), ())

    return jax.tree.map_with_path(one, memory)
