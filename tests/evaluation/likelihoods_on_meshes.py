"""Ask models how probable texts are, on several meshes of emulated devices; print JSON.

The number of devices is fixed when JAX starts, hence a process of its own.
"""

import json

import jax
import numpy as np

from fugaku_jax.config import MeshConfig, ModelConfig
from fugaku_jax.evaluation.likelihoods import Likelihoods
from fugaku_jax.layout.mesh import active, make_mesh
from fugaku_jax.models.gpt import GPT

GPT2 = {"vocab_size": 303, "n_layers": 2, "d_model": 24, "n_heads": 4, "sequence_length": 300}
MODELS = {
    "gpt2": GPT2,
    "llama": GPT2 | {"family": "llama", "n_kv_heads": 2, "d_model": 32, "tied": False},
}
MESHES = (
    {"data": 1},
    {"data": 3},
    {"data": 2, "tensor": 2},
    {"data": 1, "tensor": 2, "sequence_parallel": True},
)
Following = tuple[list[int], list[int]]


def make(mesh: dict, model: dict) -> GPT:
    """Make a model that lies whole along all but the tensor axes."""
    config = MeshConfig(**mesh)
    found, rules = make_mesh(config, jax.devices()[: config.data * config.tensor])
    with active(found):
        shape = ModelConfig(**model, init_std=0.3)
        return jax.jit(lambda: GPT(shape, jax.random.key(0), rules))()


def requests() -> list[Following]:
    """Return questions with answers, texts alone, longer and shorter, and one that is too long."""
    random = np.random.default_rng(0)

    def some(least: int, most: int) -> list[int]:
        return random.integers(0, 303, random.integers(least, most)).tolist()

    found: list[Following] = []
    for _ in range(4):
        examples = some(3, 20)
        for _ in range(4):
            question = examples + some(1, 9)
            found += [(question, some(1, 5)) for _ in range(5)]
            found.append((question, []))
    found += [([2], [token]) for token in range(303)]  # one of them is the most probable
    found += [found[0], found[-1], (some(280, 299), some(2, 3)), (some(200, 280), some(60, 90))]
    return found


def main() -> None:
    """Ask every family on every mesh."""
    asked = requests()
    found = {
        name: [Likelihoods(make(mesh, model), "float32")(asked) for mesh in MESHES]
        for name, model in MODELS.items()
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
