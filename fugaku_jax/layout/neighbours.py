"""The collectives of a step, carried by messages to neighbours on the torus."""

from dataclasses import dataclass

from jax.sharding import AbstractMesh, Mesh
from jaxtyping import Array, PyTree, Shaped

from fugaku_jax.collectives import torus
from fugaku_jax.collectives.connections import connect
from fugaku_jax.collectives.links import Links
from fugaku_jax.collectives.sums import Placed
from fugaku_jax.layout.overlap import LayerSums
from fugaku_jax.layout.placement import Collectives, Way
from fugaku_jax.pipeline.overlap import Overlap


@dataclass(frozen=True)
class TorusCollectives(Collectives):
    """The collectives of a step, over the links of this process."""

    links: Links | None = None
    """What carries them."""

    def gather(self, x: Shaped[Array, "..."], placed: Placed) -> Shaped[Array, "..."]:
        """Join the parts of all devices."""
        return torus.all_gather(self.links, x, placed) if self.links and placed else x

    def scatter(self, x: Shaped[Array, "..."], placed: Placed) -> Shaped[Array, "..."]:
        """Sum over the devices; each keeps its part."""
        return torus.reduce_scatter(self.links, x, placed) if self.links and placed else x

    def sum(self, x: Shaped[Array, "*x"], axes: tuple[str, ...]) -> Shaped[Array, "*x"]:
        """Sum over the devices."""
        return torus.all_reduce(self.links, x, axes) if self.links and axes else x

    def overlap(self, ways: PyTree[Way]) -> Overlap | None:
        """Return how a layer's gradients travel while others compute."""
        if self.links is None:
            return None
        sums = LayerSums(self.links, ways)
        return Overlap(lambda x, _: sums.start(x), sums.done, sums.nothing)


def connected(mesh: Mesh | AbstractMesh) -> Collectives:
    """Connect this process to its neighbours; all processes of the mesh have to ask for it.

    Where sums over the torus cannot be, `flat` ones take their place, which is said once; in a
    single process, and on a mesh whose devices need not exist, without a word.

    Raises:
        RendezvousError: a neighbour does not answer.
    """
    links = connect(mesh) if isinstance(mesh, Mesh) else None
    return TorusCollectives(links) if links else Collectives()
